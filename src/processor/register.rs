//! What a term knows of its stored checkpoint, and what follows from it. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::checkpoint::{StoredCheckpoint, WriteCondition};
use crate::model::{Checkpoint, ETag, OwnerId};

/// A register that only grows (ADR-0006).
///
/// INVARIANT: a write is conditional on exactly the version whose sequence number is known to be lower, so a deposed
/// owner, however late its request arrives, cannot move the checkpoint back. After a lost race both the version *and*
/// the number read with it are remembered: a conditional write that keeps the old number still regresses.
#[derive(Debug, Default)]
pub(super) struct Register {
    record: Record,
    /// The next write replaces the record, whatever its number: the partition was reset (ADR-0013).
    is_reset: bool,
    /// Whether the record has been written, or found written by somebody else, in this term.
    is_settled: bool,
    /// The last checkpoint that was not written because the record is as far.
    passed_over: Option<Checkpoint>,
}

/// What we last saw in the store.
#[derive(Debug, PartialEq)]
struct Record {
    sequence_number: Option<i64>,
    /// On what a write that replaces exactly this record depends.
    condition: WriteCondition,
}

/// What a changed record tells while a write is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing stands in the way of another try.
    Behind,
    /// The record has gone.
    Gone,
    /// The write whose answer was lost has taken effect.
    Landed,
    /// Somebody moved the checkpoint back.
    MovedBack { from: i64, to: i64 },
    /// Somebody else is as far or further.
    Superseded,
}

impl Register {
    /// Takes what the store holds as the start. `is_reset`: the next write replaces it, whatever it says.
    pub(super) fn begin(&mut self, found: Option<&StoredCheckpoint>, is_reset: bool) {
        self.record = Record::of(found);
        self.is_reset = is_reset;
    }

    /// The same for a record that cannot be understood. Only a reset replaces that.
    pub(super) fn begin_unreadable(&mut self) {
        self.record = Record {
            sequence_number: None,
            // There is no version to name. Read just now, and replaced because an operator's policy says so.
            condition: WriteCondition::Unconditional,
        };
        self.is_reset = true;
    }

    /// The condition on which `checkpoint` may be written; `None` if the record is as far already.
    pub(super) fn condition(&mut self, checkpoint: &Checkpoint) -> Option<WriteCondition> {
        if !self.is_reset && self.sequence_number() >= checkpoint.sequence_number {
            self.passed_over = Some(checkpoint.clone());
            return None;
        }
        Some(self.record.condition.clone())
    }

    /// Notes a confirmed write.
    pub(super) fn written(&mut self, checkpoint: &Checkpoint, version: ETag) {
        self.record = Record {
            sequence_number: checkpoint.sequence_number,
            condition: WriteCondition::Matches(version),
        };
        self.is_reset = false;
        self.is_settled = true;
        self.passed_over = None;
    }

    /// Notes a write of the same record that moved nothing but its version.
    pub(super) fn touched(&mut self, version: ETag) {
        self.record.condition = WriteCondition::Matches(version);
    }

    /// Notes what was read after a write of `wanted` by `me` lost or went unanswered.
    pub(super) fn found(
        &mut self,
        found: Option<&StoredCheckpoint>,
        wanted: &Checkpoint,
        me: &OwnerId,
    ) -> Found {
        let known = self.sequence_number();
        let before = std::mem::replace(&mut self.record, Record::of(found));
        if before == self.record {
            return Found::Behind;
        }
        let Some(StoredCheckpoint { checkpoint, .. }) = found else {
            return Found::Gone;
        };
        let is_mine = checkpoint.client_identifier.as_ref() == Some(me);
        let stored = checkpoint.sequence_number;
        if is_mine && stored == wanted.sequence_number {
            self.is_reset = false;
            self.is_settled = true;
            return Found::Landed;
        }
        // What we ourselves wrote late, before the reset, is what the reset is to replace.
        if self.is_reset && is_mine {
            return Found::Behind;
        }
        self.is_reset = false;
        if stored >= wanted.sequence_number {
            self.is_settled = true;
            return if is_mine {
                Found::Landed
            } else {
                Found::Superseded
            };
        }
        match (known, stored) {
            (Some(from), Some(to)) if to < from => Found::MovedBack { from, to },
            _ => Found::Behind,
        }
    }

    /// The sequence number of the record, if it has one that counts.
    fn sequence_number(&self) -> Option<i64> {
        self.record.sequence_number.filter(|_| !self.is_reset)
    }

    /// Whether the record holds what this term wants it to hold: later terms start there.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The last checkpoint that was asked for below the record.
    pub(super) fn passed_over(&self) -> Option<&Checkpoint> {
        self.passed_over.as_ref()
    }
}

impl Record {
    fn of(found: Option<&StoredCheckpoint>) -> Self {
        match found {
            None => Self::default(),
            Some(found) => Self {
                sequence_number: found.checkpoint.sequence_number,
                condition: found.condition(),
            },
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            sequence_number: None,
            condition: WriteCondition::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(sequence_number: i64, by: &str) -> Checkpoint {
        Checkpoint {
            partition_id: "0".into(),
            offset: Some("1".into()),
            sequence_number: Some(sequence_number),
            client_identifier: Some(by.into()),
        }
    }

    fn stored(sequence_number: i64, by: &str, version: &str) -> StoredCheckpoint {
        StoredCheckpoint {
            checkpoint: checkpoint(sequence_number, by),
            etag: Some(version.into()),
        }
    }

    fn at(sequence_number: i64) -> Register {
        let mut register = Register::default();
        register.begin(Some(&stored(sequence_number, "me", "v1")), false);
        register
    }

    fn matches(version: &str) -> Option<WriteCondition> {
        Some(WriteCondition::Matches(version.into()))
    }

    #[test]
    fn it_only_grows() {
        let mut register = Register::default();
        assert_eq!(
            register.condition(&checkpoint(5, "me")),
            Some(WriteCondition::Absent)
        );
        register.written(&checkpoint(5, "me"), "v1".into());
        assert_eq!(register.condition(&checkpoint(4, "me")), None);
        assert_eq!(register.condition(&checkpoint(5, "me")), None);
        assert_eq!(register.condition(&checkpoint(6, "me")), matches("v1"));
    }

    #[test]
    fn a_changed_record_is_read_for_what_it_means() {
        let me = "me".into();
        let wanted = checkpoint(8, "me");
        let found = |record: &StoredCheckpoint| at(5).found(Some(record), &wanted, &me);
        assert_eq!(found(&stored(5, "me", "v1")), Found::Behind);
        assert_eq!(found(&stored(8, "me", "v2")), Found::Landed);
        assert_eq!(found(&stored(8, "you", "v2")), Found::Superseded);
        assert_eq!(found(&stored(9, "you", "v2")), Found::Superseded);
        assert_eq!(found(&stored(6, "you", "v2")), Found::Behind);
        assert_eq!(
            found(&stored(4, "you", "v2")),
            Found::MovedBack { from: 5, to: 4 }
        );
        assert_eq!(at(5).found(None, &wanted, &me), Found::Gone);
        assert_eq!(Register::default().found(None, &wanted, &me), Found::Behind);
    }

    /// The counter-example to a conditional write that forgets the number it read.
    #[test]
    fn what_was_read_with_a_version_counts_as_much_as_the_version() {
        let mut register = at(1);
        let found = register.found(
            Some(&stored(8, "you", "v2")),
            &checkpoint(5, "me"),
            &"me".into(),
        );
        assert_eq!(found, Found::Superseded);
        assert_eq!(register.condition(&checkpoint(6, "me")), None);
        assert_eq!(register.condition(&checkpoint(9, "me")), matches("v2"));
    }

    #[test]
    fn a_reset_replaces_a_higher_record_once() {
        let mut register = Register::default();
        register.begin(Some(&stored(1000, "me", "v1")), true);
        assert_eq!(register.condition(&checkpoint(3, "me")), matches("v1"));
        register.written(&checkpoint(3, "me"), "v2".into());
        assert_eq!(register.condition(&checkpoint(2, "me")), None);
        assert_eq!(register.condition(&checkpoint(4, "me")), matches("v2"));
    }

    #[test]
    fn a_late_write_of_our_own_does_not_undo_a_reset_and_that_of_another_does() {
        let wanted = checkpoint(3, "me");
        let mut register = Register::default();
        register.begin(Some(&stored(1000, "me", "v1")), true);
        let late = register.found(Some(&stored(1001, "me", "v2")), &wanted, &"me".into());
        assert_eq!(late, Found::Behind);
        assert_eq!(register.condition(&wanted), matches("v2"));
        let foreign = register.found(Some(&stored(1002, "you", "v3")), &wanted, &"me".into());
        assert_eq!(foreign, Found::Superseded);
        assert_eq!(register.condition(&wanted), None);
    }

    #[test]
    fn an_unreadable_record_is_replaced_by_a_reset_only_and_then_has_a_version() {
        let mut register = Register::default();
        register.begin_unreadable();
        let first = register.condition(&checkpoint(0, "me"));
        assert_eq!(first, Some(WriteCondition::Unconditional));
        register.written(&checkpoint(0, "me"), "v1".into());
        assert_eq!(register.condition(&checkpoint(1, "me")), matches("v1"));
    }

    #[test]
    fn a_replay_below_the_record_remembers_how_far_it_came() {
        let mut register = at(100);
        assert_eq!(register.condition(&checkpoint(7, "me")), None);
        assert_eq!(register.passed_over(), Some(&checkpoint(7, "me")));
        assert!(!register.is_settled());
        register.written(&checkpoint(101, "me"), "v2".into());
        assert!(register.is_settled() && register.passed_over().is_none());
    }
}
