//! What the processor does about trouble.

use std::fmt;

use super::ProcessingError;

/// What the processor does about trouble that it survives ([`ProcessingError::reaction`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reaction {
    /// What the [`failure_policy`](crate::ProcessorOptions::failure_policy) or
    /// [`invalid_position`](crate::ProcessorOptions::invalid_position) says.
    FollowsPolicy,
    /// Nothing, and processing goes on.
    GoesOn,
    /// Tries the same again after a pause, until it succeeds or the processor is stopped.
    Retries,
    /// Holds the partition until somebody acts: the application resumes it, or an ownership is proven.
    Waits,
}

impl fmt::Display for Reaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FollowsPolicy => "what happens next says the policy",
            Self::GoesOn => "processing goes on",
            Self::Retries => "it is tried again",
            Self::Waits => "the partition waits",
        })
    }
}

impl ProcessingError {
    /// What the processor does about it.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Handler { .. }
            | Self::HandlerPanicked { .. }
            | Self::InvalidPosition(_)
            | Self::Undecodable { .. } => Reaction::FollowsPolicy,
            Self::DuplicateOwnerId { .. } | Self::EventsMissing { .. } | Self::Skipped { .. } => {
                Reaction::GoesOn
            }
            Self::Authorization(_)
            | Self::Checkpoint(_)
            | Self::DeadLetter(_)
            | Self::EventHub(_)
            | Self::LoadBalancing(_)
            | Self::ReadCheckpoint(_)
            | Self::Receive(_)
            | Self::Stalled { .. } => Reaction::Retries,
            Self::OwnershipUnproven | Self::PartitionStopped => Reaction::Waits,
        }
    }
}
