//! Where events go that the application cannot process.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::BoxError;
use crate::model::{GroupScope, OwnerId, PartitionId, ReceivedEvent};

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
    /// The event.
    pub event: ReceivedEvent,
    /// The error of the last call, with its sources.
    pub reason: String,
    /// How often the handler was called with it; 0 for an event that could not be decoded.
    pub attempts: u32,
    /// When the last call failed.
    pub failed_at: SystemTime,
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
