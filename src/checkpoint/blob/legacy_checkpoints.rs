//! Checkpoints as processors of earlier generations left them. Read only.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use super::BlobStoreConfigError;
use super::container::{Container, Deadline};
use super::names::{self, LegacyNames};
use crate::checkpoint::validate;
use crate::error::StoreError;
use crate::model::{Checkpoint, GroupScope, Offset, PartitionId};

/// Blobs whose content is read at the same time.
const READS: usize = 16;

/// Where to look for the checkpoint of a partition that has none in today's format.
///
/// A service that moves here from an older processor continues where that one stopped. The old records are only
/// read; the first checkpoint that is written takes their place. Their blobs hold JSON: the offset counts, else the
/// sequence number. One without a position is no checkpoint, and one that cannot be understood is none either, and is
/// logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LegacyCheckpoints {
    /// How the blobs are named.
    pub layout: LegacyLayout,
    /// The container they are in. Default `None`: that of the store.
    pub container_name: Option<String>,
}

/// How the blobs of an earlier generation are named.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LegacyLayout {
    /// `{namespace}/{event hub}/{consumer group}/{partition}`, as Azure Functions named them before version 5 of
    /// its Event Hubs extension, usually in the container `azure-webjobs-eventhub`. The names count as they are
    /// spelled.
    AzureFunctions,
    /// `{prefix}{consumer group}/{partition}`, as the `EventProcessorHost` of .NET and Java named its leases. The
    /// names count as they are spelled.
    EventProcessorHost {
        /// The `storageBlobPrefix` that the host was given; empty unless it was.
        prefix: String,
    },
}

impl LegacyCheckpoints {
    /// Those of Azure Functions; see [`LegacyLayout::AzureFunctions`].
    #[must_use]
    pub fn azure_functions() -> Self {
        Self {
            layout: LegacyLayout::AzureFunctions,
            container_name: None,
        }
    }

    /// Those of an `EventProcessorHost`; see [`LegacyLayout::EventProcessorHost`].
    #[must_use]
    pub fn event_processor_host(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self {
            layout: LegacyLayout::EventProcessorHost { prefix },
            container_name: None,
        }
    }

    /// Sets [`container_name`](Self::container_name).
    #[must_use]
    pub fn with_container_name(mut self, container_name: impl Into<String>) -> Self {
        self.container_name = Some(container_name.into());
        self
    }

    pub(super) fn check(&self) -> Result<(), BlobStoreConfigError> {
        match &self.layout {
            LegacyLayout::EventProcessorHost { prefix } if !names::is_prefix(prefix) => {
                Err(BlobStoreConfigError::InvalidOption {
                    option: "legacy_checkpoints",
                    reason: "the prefix must be the beginning of a blob name",
                })
            }
            _ => Ok(()),
        }
    }
}

/// Reads them.
pub(super) struct LegacyReader {
    pub(super) container: Arc<Container>,
    pub(super) layout: LegacyLayout,
}

impl LegacyReader {
    /// The old checkpoint of a partition.
    pub(super) async fn read(
        &self,
        deadline: Deadline,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let name = LegacyNames::new(scope, &self.layout)?.checkpoint(partition_id)?;
        self.read_blob(deadline, &name, partition_id).await
    }

    /// The old checkpoints of all partitions but those that `is_known` knows better.
    pub(super) async fn list(
        &self,
        deadline: Deadline,
        scope: &GroupScope,
        is_known: impl Fn(&PartitionId) -> bool,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let prefix = LegacyNames::new(scope, &self.layout)?.prefix();
        let listing = self.container.list(deadline, &prefix).await;
        let listing =
            listing.map_err(|failure| failure.into_error(format_args!("list {prefix}")))?;
        let names: BTreeMap<PartitionId, String> = listing
            .records
            .into_iter()
            .filter_map(|record| Some((names::partition_of(&prefix, &record.name)?, record.name)))
            .filter(|(partition_id, _)| !is_known(partition_id))
            .collect();
        let reads = names
            .into_iter()
            .map(async |(partition_id, name)| self.read_blob(deadline, &name, &partition_id).await);
        let found: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn read_blob(
        &self,
        deadline: Deadline,
        name: &str,
        partition_id: &PartitionId,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let content = self.container.content(deadline, name).await;
        let content = content.map_err(|failure| failure.into_error(format_args!("read {name}")))?;
        let Some(content) = content else {
            return Ok(None);
        };
        match parse(partition_id, &content) {
            Ok(checkpoint) => Ok(checkpoint),
            Err(reason) => {
                tracing::warn!(
                    blob = name,
                    reason,
                    "a checkpoint in an old format cannot be understood and counts as none"
                );
                Ok(None)
            }
        }
    }
}

/// The position in a lease or checkpoint of an earlier generation; `None` if it holds none.
///
/// INTEROP: .NET writes `{"Offset":"8591964920","SequenceNumber":960180,…}`, Java the same in camel case, Python with
/// underscores. A host that owns a partition and has not processed anything leaves the offset null or empty next to a
/// sequence number of 0, which means nothing then.
fn parse(partition_id: &PartitionId, content: &[u8]) -> Result<Option<Checkpoint>, &'static str> {
    if content.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // Some writers of .NET put a byte order mark before their JSON.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let value: Value = serde_json::from_slice(content).map_err(|_| "it is no JSON")?;
    let object = value.as_object().ok_or("it is no JSON object")?;
    let field = |wanted: &str| {
        let is_it = |key: &str| key.replace('_', "").eq_ignore_ascii_case(wanted);
        let found = object.iter().find(|(key, _)| is_it(key));
        found.map(|(_, value)| value)
    };
    let offset = match field("offset") {
        None => None,
        Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if is_nowhere(text) => return Ok(None),
        Some(Value::String(text)) => Some(text.trim().to_owned()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => return Err("its offset is neither text nor a number"),
    };
    if offset
        .as_ref()
        .is_some_and(|text| !text.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err("its offset is not visible ASCII");
    }
    let sequence_number = match field("sequencenumber") {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => return Err("its sequence number is no number"),
    };
    let sequence_number = sequence_number.filter(|number| *number >= 0);
    if offset.is_none() && sequence_number.is_none() {
        return Ok(None);
    }
    Ok(Some(Checkpoint {
        partition_id: partition_id.clone(),
        offset: offset.map(Offset::new),
        sequence_number,
        client_identifier: None,
    }))
}

/// INTEROP: `-1` was the offset before the first event.
fn is_nowhere(offset: &str) -> bool {
    let offset = offset.trim();
    validate::is_offset_placeholder(offset) || offset == "-1"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Position = (Option<String>, Option<i64>);

    fn position(content: &str) -> Result<Option<Position>, &'static str> {
        let found = parse(&"0".into(), content.as_bytes())?;
        Ok(found.map(|c| (c.offset.map(|o| o.to_string()), c.sequence_number)))
    }

    #[test]
    fn positions_of_every_known_writer_are_found() {
        let both = Ok(Some((Some("8591964920".to_owned()), Some(960_180))));
        for (content, expected) in [
            // .NET's EventProcessorHost and Azure Functions.
            (
                r#"{"PartitionId":"0","Owner":"h","Token":"t","Epoch":3,"Offset":"8591964920","SequenceNumber":960180}"#,
                both.clone(),
            ),
            (
                "\u{feff}{\"Offset\":\"8591964920\",\"SequenceNumber\":960180}",
                both.clone(),
            ),
            // Java's.
            (
                r#"{"partitionId":"0","epoch":3,"offset":"8591964920","sequenceNumber":960180}"#,
                both.clone(),
            ),
            // Python's.
            (
                r#"{"partition_id":"0","epoch":3,"offset":"8591964920","sequence_number":960180}"#,
                both.clone(),
            ),
            (r#"{"Offset":8591964920,"SequenceNumber":"960180"}"#, both),
            // The offset wins, whatever the sequence number is.
            (
                r#"{"Offset":"5","SequenceNumber":null}"#,
                Ok(Some((Some("5".to_owned()), None))),
            ),
            (r#"{"SequenceNumber":7}"#, Ok(Some((None, Some(7))))),
            // Owned, and nothing processed yet.
            (r#"{"Offset":null,"SequenceNumber":0}"#, Ok(None)),
            (r#"{"Offset":"","SequenceNumber":0}"#, Ok(None)),
            (r#"{"Offset":" ","SequenceNumber":0}"#, Ok(None)),
            (r#"{"Offset":"-1","SequenceNumber":-1}"#, Ok(None)),
            (r#"{"Owner":"h"}"#, Ok(None)),
            ("", Ok(None)),
            (" \n", Ok(None)),
            // Not understood.
            ("{", Err("it is no JSON")),
            ("Offset=5", Err("it is no JSON")),
            ("[1]", Err("it is no JSON object")),
            (
                r#"{"Offset":{"a":1}}"#,
                Err("its offset is neither text nor a number"),
            ),
            (r#"{"Offset":"é"}"#, Err("its offset is not visible ASCII")),
            (
                r#"{"Offset":"5","SequenceNumber":[]}"#,
                Err("its sequence number is no number"),
            ),
        ] {
            assert_eq!(position(content), expected, "{content}");
        }
    }

    proptest! {
        #[test]
        fn any_content_is_read_or_refused_without_panic(content in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&"0".into(), &content);
        }

        #[test]
        fn whatever_is_found_is_a_position(
            offset in r#"(null|"[ -~]{0,6}"|-?[0-9]{1,4}|true)"#, number in "(null|-?[0-9]{1,20}|\"x\")",
        ) {
            let content = format!(r#"{{"Offset":{offset},"SequenceNumber":{number}}}"#);
            if let Ok(Some(found)) = parse(&"0".into(), content.as_bytes()) {
                prop_assert!(found.offset.is_some() || found.sequence_number.is_some());
                prop_assert!(found.offset.is_none_or(|offset| !offset.as_str().is_empty()));
            }
        }
    }
}
