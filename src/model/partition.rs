//! What the service tells about an event hub and its partitions.

use std::time::SystemTime;

use super::{Offset, PartitionId};

/// Properties of an event hub.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventHubProperties {
    /// Name of the event hub.
    pub name: String,
    /// When the event hub was created; `None` if the service did not say.
    pub created_at: Option<SystemTime>,
    /// Ids of its partitions, in the service's order.
    pub partition_ids: Vec<PartitionId>,
}

impl EventHubProperties {
    /// Properties with the given name and partitions.
    pub fn new(name: impl Into<String>, partition_ids: Vec<PartitionId>) -> Self {
        Self {
            name: name.into(),
            created_at: None,
            partition_ids,
        }
    }

    /// Sets the creation time.
    #[must_use]
    pub fn with_created_at(mut self, created_at: SystemTime) -> Self {
        self.created_at = Some(created_at);
        self
    }
}

/// Properties of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProperties {
    /// Name of the event hub.
    pub event_hub_name: String,
    /// The partition.
    pub partition_id: PartitionId,
    /// Sequence number of the oldest event still retained.
    pub beginning_sequence_number: i64,
    /// Sequence number of the newest event; `-1` if there never was one.
    pub last_enqueued_sequence_number: i64,
    /// Offset of the newest event.
    pub last_enqueued_offset: Offset,
    /// When the newest event was enqueued.
    pub last_enqueued_time: SystemTime,
    /// Whether the partition holds no event.
    pub is_empty: bool,
}

/// The newest event of a partition, as the service told it along with a received event.
/// Comes only if the receiver asked for it (`track_last_enqueued_event_properties`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnqueuedEventProperties {
    /// Sequence number of the newest event.
    pub sequence_number: i64,
    /// Offset of the newest event.
    pub offset: Offset,
    /// When the newest event was enqueued.
    pub enqueued_time: SystemTime,
    /// When the service looked this up.
    pub retrieval_time: SystemTime,
}
