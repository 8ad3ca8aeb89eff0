//! What every store checks before it writes, so that no SDK trips over the record.

use crate::error::{StoreError, StoreErrorKind};
use crate::model::{Checkpoint, ETag, OwnerId};

/// Longest owner id. Generous for any host name with a process id or a UUID, and far below the 8 KiB that
/// blob storage allows for all metadata of a blob.
const MAX_OWNER_ID: usize = 128;

/// Longest offset. Real ones have 20 to 60 characters.
const MAX_OFFSET: usize = 1024;

/// Longest version tag that is sent back. Blob storage's have 17 characters.
const MAX_ETAG: usize = 256;

/// INTEROP: texts that writers of other SDKs leave where they have no offset: .NET 5.11.3 to 5.11.6 write
/// `no offset`, and Python's `None` gets there by way of `str()`.
pub(crate) fn is_offset_placeholder(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("no offset") || text.eq_ignore_ascii_case("none")
}

/// Visible ASCII: metadata travels in HTTP headers, and signing breaks on anything else.
fn is_visible_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Refuses an owner id that other SDKs could not read back the same.
pub(crate) fn owner_id(owner_id: &OwnerId) -> Result<(), StoreError> {
    let text = owner_id.as_str();
    // An inner space survives every SDK, a leading or trailing one none.
    let inner = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && text.trim() == text;
    if text.is_empty() || text.len() > MAX_OWNER_ID || !inner {
        return Err(invalid(format!(
            "an owner id must be 1 to {MAX_OWNER_ID} visible ASCII characters"
        )));
    }
    Ok(())
}

/// Refuses a checkpoint that would stop other SDKs; hands out its two values otherwise.
pub(crate) fn checkpoint(checkpoint: &Checkpoint) -> Result<(&str, i64), StoreError> {
    let partition = &checkpoint.partition_id;
    let (Some(offset), Some(sequence_number)) = (&checkpoint.offset, checkpoint.sequence_number)
    else {
        return Err(invalid(format!(
            "the checkpoint of partition {partition} needs both offset and sequence number"
        )));
    };
    let offset = offset.as_str();
    if is_offset_placeholder(offset) || offset.len() > MAX_OFFSET || !is_visible_ascii(offset) {
        return Err(invalid(format!(
            "the offset in the checkpoint of partition {partition} must be 1 to {MAX_OFFSET} visible \
             ASCII characters and not a placeholder"
        )));
    }
    if sequence_number < 0 {
        return Err(invalid(format!(
            "the sequence number in the checkpoint of partition {partition} is negative"
        )));
    }
    if let Some(client_identifier) = &checkpoint.client_identifier {
        owner_id(client_identifier)?;
    }
    Ok((offset, sequence_number))
}

/// Refuses a version tag that no store gave: it would end up in a header.
pub(crate) fn etag(etag: &ETag) -> Result<(), StoreError> {
    let text = etag.as_str();
    if text.is_empty() || text.len() > MAX_ETAG || !is_visible_ascii(text) {
        return Err(invalid(
            "the version to match is empty or not a version tag",
        ));
    }
    Ok(())
}

/// Ownership is only ever taken on a condition: an unconditional write would take a partition from whoever
/// won it a moment ago, without either noticing.
pub(crate) fn unconditional_ownership() -> StoreError {
    invalid("ownership cannot be written unconditionally")
}

fn invalid(context: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::InvalidValue, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: Option<&str>, sequence_number: Option<i64>) -> Checkpoint {
        Checkpoint {
            partition_id: "0".into(),
            offset: offset.map(Into::into),
            sequence_number,
            client_identifier: None,
        }
    }

    #[test]
    fn owner_ids_are_visible_ascii_of_limited_length() {
        for good in ["a", "host-1/4711", "my host", &"x".repeat(128)] {
            assert!(owner_id(&good.into()).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            " ",
            " a",
            "a ",
            "a\n",
            "a\r\nx: y",
            "é",
            "a\0",
            &"x".repeat(129),
        ] {
            let error = owner_id(&bad.into()).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::InvalidValue, "{bad:?}");
        }
    }

    #[test]
    fn checkpoints_need_both_values() {
        assert!(checkpoint(&record(Some("4294967296"), Some(5))).is_ok());
        assert!(checkpoint(&record(Some("1:2:geo"), Some(0))).is_ok());
        for (offset, sequence_number) in [
            (None, Some(1)),
            (Some("1"), None),
            (Some(""), Some(1)),
            (Some("None"), Some(1)),
            (Some("no offset"), Some(1)),
            (Some("1 2"), Some(1)),
            (Some("1\n"), Some(1)),
            (Some("😀"), Some(1)),
            (Some("1"), Some(-1)),
        ] {
            let error = checkpoint(&record(offset, sequence_number)).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::InvalidValue, "{offset:?}");
        }
    }

    #[test]
    fn version_tags_cannot_break_out_of_a_header() {
        assert!(etag(&"0x8DABC".into()).is_ok());
        for bad in ["", "a b", "a\r\nx-ms-meta-ownerid: me", &"e".repeat(300)] {
            assert!(etag(&bad.into()).is_err(), "{bad:?}");
        }
    }
}
