//! What stands in the metadata of a record. Pure.

use std::collections::HashMap;

use super::super::validate;
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{Checkpoint, Offset, OwnerId, PartitionId};

const OWNER_ID: &str = "ownerid";
const OFFSET: &str = "offset";
const SEQUENCE_NUMBER: &str = "sequencenumber";
/// INTEROP: .NET's `BlobMetadataKey.ClientIdentifier`. No other SDK reads or keeps it.
const CLIENT_IDENTIFIER: &str = "clientidentifier";
/// Set on directories of accounts with a hierarchical namespace.
const IS_FOLDER: &str = "hdi_isfolder";

/// Longest value that is looked at; a record of ours has at most 1 KiB in it.
const MAX_VALUE: usize = 8 * 1024;

/// Metadata of a blob as the client hands it over.
pub(super) type Metadata = HashMap<String, String>;

/// Looks a key up without regard to case.
///
/// INTEROP: early Java releases wrote `OwnerId`, `Offset` and `SequenceNumber`, and listings keep the case
/// of the writer.
fn value<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    metadata
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, value)| value.trim())
        .filter(|value| value.len() <= MAX_VALUE)
}

/// Whether the blob is a directory marker.
pub(super) fn is_directory(metadata: &Metadata) -> bool {
    value(metadata, IS_FOLDER).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Who owns the partition. An empty, blank or missing owner id means nobody.
pub(super) fn read_owner(metadata: &Metadata) -> Option<OwnerId> {
    value(metadata, OWNER_ID)
        .filter(|text| !text.is_empty())
        .map(OwnerId::new)
}

/// The metadata of an ownership record; `None` gives the partition back.
///
/// INTEROP: the key is always there, with an empty value for nobody. Python and JavaScript fail the whole
/// listing when one record lacks it. It is also the only key: every foreign renewal drops the others.
pub(super) fn write_owner(owner_id: Option<&OwnerId>) -> Metadata {
    let owner = owner_id.map_or_else(String::new, |owner_id| owner_id.as_str().to_owned());
    HashMap::from([(OWNER_ID.to_owned(), owner)])
}

/// The position in a checkpoint record.
///
/// INTEROP: an offset that is empty or a placeholder counts as missing (.NET 5.11 wrote such), and so does a
/// sequence number that is not a decimal `i64` from 0 on. What remains must be a position.
pub(super) fn read_checkpoint(
    partition_id: &PartitionId,
    metadata: &Metadata,
) -> Result<Checkpoint, StoreError> {
    let offset = value(metadata, OFFSET)
        .filter(|text| !validate::is_offset_placeholder(text))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(Offset::new);
    let sequence_number = value(metadata, SEQUENCE_NUMBER)
        .and_then(|text| text.parse::<i64>().ok())
        .filter(|number| *number >= 0);
    if offset.is_none() && sequence_number.is_none() {
        return Err(StoreError::new(
            StoreErrorKind::MalformedRecord,
            format!("the checkpoint of partition {partition_id} holds no position"),
        ));
    }
    Ok(Checkpoint {
        partition_id: partition_id.clone(),
        offset,
        sequence_number,
        client_identifier: value(metadata, CLIENT_IDENTIFIER)
            .map(OwnerId::new)
            .filter(|client_identifier| validate::owner_id(client_identifier).is_ok()),
    })
}

/// The metadata of a checkpoint record: always both positions, since a record that lacks one stops the consumer
/// groups of other SDKs, and who wrote it if that is known.
pub(super) fn write_checkpoint(checkpoint: &Checkpoint) -> Result<Metadata, StoreError> {
    let (offset, sequence_number) = validate::checkpoint(checkpoint)?;
    let mut metadata = HashMap::from([
        (OFFSET.to_owned(), offset.to_owned()),
        (SEQUENCE_NUMBER.to_owned(), sequence_number.to_string()),
    ]);
    if let Some(client_identifier) = &checkpoint.client_identifier {
        metadata.insert(CLIENT_IDENTIFIER.to_owned(), client_identifier.to_string());
    }
    Ok(metadata)
}

/// Whether a record read back holds what was written. Keys of others do not matter.
pub(super) fn holds(stored: &Metadata, written: &Metadata) -> bool {
    written
        .iter()
        .all(|(key, text)| value(stored, key) == Some(text.as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn position(pairs: &[(&str, &str)]) -> Option<(Option<String>, Option<i64>)> {
        read_checkpoint(&"0".into(), &metadata(pairs))
            .ok()
            .map(|c| (c.offset.map(|o| o.to_string()), c.sequence_number))
    }

    #[test]
    fn an_owner_is_whoever_is_named() {
        assert_eq!(
            read_owner(&metadata(&[("ownerid", "a-1")])),
            Some("a-1".into())
        );
        assert_eq!(read_owner(&metadata(&[("OwnerId", "a")])), Some("a".into()));
        assert_eq!(
            read_owner(&metadata(&[("other", "x"), ("OWNERID", " a ")])),
            Some("a".into())
        );
        for nobody in [
            &[][..],
            &[("ownerid", "")],
            &[("ownerid", "  ")],
            &[("owner", "a")],
        ] {
            assert_eq!(read_owner(&metadata(nobody)), None, "{nobody:?}");
        }
    }

    #[test]
    fn giving_back_keeps_the_key() {
        assert_eq!(write_owner(None), metadata(&[("ownerid", "")]));
        assert_eq!(
            write_owner(Some(&"me".into())),
            metadata(&[("ownerid", "me")])
        );
    }

    #[test]
    fn every_known_writer_is_understood() {
        let number = Some("42".to_owned());
        for (pairs, expected) in [
            (
                &[("offset", "42"), ("sequencenumber", "7")][..],
                Some((number.clone(), Some(7))),
            ),
            (
                &[("Offset", "42"), ("SequenceNumber", "7")],
                Some((number.clone(), Some(7))),
            ),
            (
                &[
                    ("offset", "42"),
                    ("Sequencenumber", "7"),
                    ("clientidentifier", "x"),
                ],
                Some((number.clone(), Some(7))),
            ),
            (
                &[("offset", "1:99:geo"), ("sequencenumber", "7")],
                Some((Some("1:99:geo".to_owned()), Some(7))),
            ),
            (
                &[("offset", ""), ("sequencenumber", "7")],
                Some((None, Some(7))),
            ),
            (
                &[("offset", "no offset"), ("sequencenumber", "7")],
                Some((None, Some(7))),
            ),
            (
                &[("offset", "None"), ("sequencenumber", "7")],
                Some((None, Some(7))),
            ),
            (
                &[("offset", "  "), ("sequencenumber", " 7 ")],
                Some((None, Some(7))),
            ),
            (&[("sequencenumber", "7")], Some((None, Some(7)))),
            (&[("offset", "42")], Some((number.clone(), None))),
            (
                &[("offset", "42"), ("sequencenumber", "")],
                Some((number.clone(), None)),
            ),
            (
                &[("offset", "42"), ("sequencenumber", "abc")],
                Some((number.clone(), None)),
            ),
            (
                &[("offset", "42"), ("sequencenumber", "1e9")],
                Some((number.clone(), None)),
            ),
            (
                &[("offset", "42"), ("sequencenumber", "-5")],
                Some((number, None)),
            ),
            (
                &[("offset", ""), ("sequencenumber", "99999999999999999999")],
                None,
            ),
            (&[("offset", "😀"), ("sequencenumber", "\0")], None),
            (&[("offset", "no offset"), ("sequencenumber", "")], None),
            (&[], None),
        ] {
            assert_eq!(position(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn directories_are_told_apart() {
        assert!(is_directory(&metadata(&[("hdi_isfolder", "true")])));
        assert!(is_directory(&metadata(&[("Hdi_IsFolder", "True")])));
        assert!(!is_directory(&metadata(&[("ownerid", "a")])));
    }

    #[test]
    fn own_content_is_recognised_among_foreign_keys() {
        let ours = write_owner(Some(&"me".into()));
        assert!(holds(&metadata(&[("OwnerId", "me"), ("x", "y")]), &ours));
        assert!(!holds(&metadata(&[("ownerid", "you")]), &ours));
        assert!(!holds(&metadata(&[]), &ours));
        assert!(holds(&metadata(&[("ownerid", "")]), &write_owner(None)));
        assert!(!holds(&metadata(&[]), &write_owner(None)));
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(offset in "[!-~]{1,40}", number in 0i64.., has_author: bool) {
            let checkpoint = Checkpoint {
                partition_id: "0".into(),
                offset: Some(offset.into()),
                sequence_number: Some(number),
                client_identifier: has_author.then(|| "me".into()),
            };
            let Ok(written) = write_checkpoint(&checkpoint) else { return Ok(()) };
            prop_assert_eq!(read_checkpoint(&"0".into(), &written).unwrap(), checkpoint);
            prop_assert!(holds(&written, &written));
        }

        #[test]
        fn any_metadata_reads_or_fails_without_panic(
            pairs in proptest::collection::hash_map("(?i)(offset|sequencenumber|ownerid|\\PC{1,8})", "\\PC{0,24}", 0..5)
        ) {
            let _ = read_owner(&pairs);
            let _ = is_directory(&pairs);
            if let Ok(checkpoint) = read_checkpoint(&"0".into(), &pairs) {
                prop_assert!(checkpoint.offset.is_some() || checkpoint.sequence_number.is_some());
            }
        }
    }
}
