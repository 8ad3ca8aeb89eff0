//! Why a request was sent, and the marks for what became of it.

use std::collections::BTreeMap;

use super::{Listing, Refusal};
use crate::marks::Mark;
use crate::world::World;

/// Why a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Checkpoint,
    Claim,
    /// By a model of another SDK.
    Foreign,
    GiveBack,
    List,
    ReadCheckpoint,
    Renew,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Done,
    Refused,
    Failed,
    /// Never arrived, and nobody knows.
    Vanished,
    /// Arrived, and nobody knows.
    Unseen {
        is_late: bool,
        is_applied: bool,
    },
    Repeated,
    Stale,
    TooSlow,
}

impl Outcome {
    pub(super) fn answered(answer: &impl Applied) -> Self {
        if answer.is_applied() {
            Self::Done
        } else {
            Self::Refused
        }
    }
}

/// An answer that tells whether the request took effect.
pub(super) trait Applied {
    fn is_applied(&self) -> bool;
}

impl<T> Applied for Result<T, Refusal> {
    fn is_applied(&self) -> bool {
        self.is_ok()
    }
}

impl Applied for Listing {
    fn is_applied(&self) -> bool {
        true
    }
}

impl<K, V> Applied for BTreeMap<K, V> {
    fn is_applied(&self) -> bool {
        true
    }
}

impl<T> Applied for Option<T> {
    fn is_applied(&self) -> bool {
        true
    }
}

impl Purpose {
    /// Whether it is for an ownership record.
    pub(crate) fn is_claim(self) -> bool {
        matches!(self, Self::Claim | Self::GiveBack | Self::Renew)
    }

    pub(super) fn mark(self, world: &World, outcome: Outcome) {
        if self == Self::Foreign {
            return;
        }
        if let Some(mark) = self.mark_for(outcome) {
            world.reach(mark);
        }
    }

    fn mark_for(self, outcome: Outcome) -> Option<Mark> {
        let is_owner_write = self.is_claim();
        Some(match (outcome, self) {
            (Outcome::Repeated, _) => Mark::RepeatedRequest,
            (Outcome::Stale, _) => Mark::StaleListing,
            (Outcome::TooSlow, _) => Mark::RequestTooSlow,
            (Outcome::Refused, Self::Claim) => Mark::ClaimLost,
            (Outcome::Refused, Self::Renew) => Mark::RenewalLost,
            (Outcome::Refused, Self::GiveBack) => Mark::GivingBackLost,
            (Outcome::Refused, Self::Checkpoint) => Mark::CheckpointLost,
            (Outcome::Failed, Self::List) => Mark::ListFailed,
            (Outcome::Failed, Self::Checkpoint) => Mark::CheckpointFailed,
            (Outcome::Failed, Self::ReadCheckpoint) => Mark::CheckpointReadFailed,
            (Outcome::Failed, _) => Mark::ClaimFailed,
            (Outcome::Vanished, Self::Claim) => Mark::ClaimVanished,
            (Outcome::Vanished, Self::Renew) => Mark::RenewalVanished,
            (Outcome::Vanished, Self::Checkpoint) => Mark::CheckpointVanished,
            (
                Outcome::Unseen {
                    is_late,
                    is_applied,
                },
                _,
            ) => match (is_late, is_applied, self) {
                (true, true, Self::Checkpoint) => Mark::LateCheckpointApplied,
                (true, false, Self::Checkpoint) => Mark::LateCheckpointRefused,
                (true, true, _) if is_owner_write => Mark::LateClaimApplied,
                (true, false, _) if is_owner_write => Mark::LateClaimRefused,
                (false, true, Self::Claim) => Mark::ClaimLandedUnseen,
                (false, true, Self::Renew) => Mark::RenewalLandedUnseen,
                (false, true, Self::Checkpoint) => Mark::CheckpointLandedUnseen,
                _ => return None,
            },
            _ => return None,
        })
    }
}
