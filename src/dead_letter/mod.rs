//! Where events go that the application cannot process.

mod blob;
mod event_hub;
mod json;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

pub use self::blob::BlobDeadLetters;
pub use self::event_hub::EventHubDeadLetters;
use crate::error::BoxError;
use crate::model::{GroupScope, OwnerId, PartitionId, ReceivedEvent, UndecodableReason};

/// An event that could not be processed, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Where the event was read.
    pub scope: GroupScope,
    /// The partition it was read from.
    pub partition_id: PartitionId,
    /// The processor that read it.
    pub owner_id: OwnerId,
    /// The event. If it could not be decoded, its body is the encoded message, and what could not be read of its place is
    /// that of the event before it, plus one.
    pub event: ReceivedEvent,
    /// Why it could not be decoded, if that is what is wrong with it.
    pub undecodable: Option<UndecodableReason>,
    /// The error of the last call, with its sources; at most [`MAX_REASON`](Self::MAX_REASON) bytes.
    pub reason: String,
    /// How often the handler was called with it; 0 for an event that could not be decoded, 1 for one that the handler
    /// [buried itself](crate::PartitionContext::dead_letter).
    pub attempts: u32,
    /// When the last call failed.
    pub failed_at: SystemTime,
}

/// Where an event came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) scope: &'a GroupScope,
    pub(crate) partition_id: &'a PartitionId,
    pub(crate) owner_id: &'a OwnerId,
}

impl DeadLetter {
    /// Most bytes of a [`reason`](Self::reason); what is longer ends in `…`. An error may quote what it failed at.
    pub const MAX_REASON: usize = 4096;

    pub(crate) fn new(
        source: Source<'_>,
        event: &ReceivedEvent,
        reason: &str,
        attempts: u32,
    ) -> Self {
        Self {
            scope: source.scope.clone(),
            partition_id: source.partition_id.clone(),
            owner_id: source.owner_id.clone(),
            event: event.clone(),
            undecodable: None,
            reason: shortened(reason, Self::MAX_REASON),
            attempts,
            failed_at: SystemTime::now(),
        }
    }
}

/// The text, or its beginning and a sign that there was more, in at most `max` bytes.
fn shortened(text: &str, max: usize) -> String {
    const MORE: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(MORE.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut short = text[..end].to_owned();
    if end + MORE.len() <= max {
        short.push_str(MORE);
    }
    short
}

/// Stores dead letters.
#[async_trait]
pub trait DeadLetterSink: fmt::Debug + Send + Sync + 'static {
    /// Stores a letter, and returns once it is safe. May be called again for a letter that was stored already: after a
    /// crash, or if the answer was lost.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being stored. The processor calls again, after a wait, for as long as it takes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves it open whether the letter was stored.
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError>;
}

#[async_trait]
impl<S: DeadLetterSink + ?Sized> DeadLetterSink for Arc<S> {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        (**self).store(letter).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_reason_keeps_its_beginning() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcdef", 5), "ab…");
        assert_eq!(shortened("äöü", 5), "ä…");
        assert_eq!(shortened("abc", 2), "");
    }

    proptest! {
        #[test]
        fn no_reason_is_too_long(text in "\\PC{0,60}", max in 0usize..80) {
            let short = shortened(&text, max);
            prop_assert!(short.len() <= max);
            prop_assert!(text.starts_with(short.trim_end_matches('…')));
        }
    }
}
