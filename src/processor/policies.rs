//! What to do about checkpoints: when to write them, and what if one was moved or leads nowhere.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use super::progress::{Cadence, Progress};
use crate::model::EventPosition;

/// When checkpoints are written.
///
/// Every policy but [`Manual`](Self::Manual) covers exactly the events whose hook
/// ([`on_event`](super::EventHandler::on_event) or [`on_event_batch`](super::EventHandler::on_event_batch)) returned
/// `Ok`, up to the first that did not: a batch counts as a whole, and of an event that failed, or any after it,
/// nothing is checkpointed. Do not choose such a policy if the hook only passes events on to work that outlives it.
///
/// The writes happen beside the handler and never hold it up: at most one is under way for each partition, and what is
/// completed meanwhile goes into the next one. One that fails is told to
/// [`on_error`](super::EventHandler::on_error) as [`Checkpoint`](crate::ProcessingError::Checkpoint) and tried again,
/// with the latest event, after a wait that grows up to the `load_balancing_interval`. Whatever the policy, the last
/// completed event is checkpointed when the partition is closed while it is still ours: on a stop before the partition
/// is given back or its heir begins, and when a handler fails.
///
/// [`update_checkpoint`](super::PartitionContext::update_checkpoint) works with every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckpointPolicy {
    /// Only when the handler calls [`update_checkpoint`](super::PartitionContext::update_checkpoint). The default, as
    /// in the other SDKs.
    #[default]
    Manual,
    /// Every 5 s or 10 000 events, whichever comes first: what a crash repeats at most, for a few writes a minute.
    Automatic,
    /// When all events that had arrived are done: after each `on_event_batch`; with `on_event`, when no other event
    /// waits.
    EveryBatch,
    /// After so many events. With one, each event is due at once, and what comes during a write is covered by the next.
    EveryEvents(NonZeroU64),
    /// So long after the first event that no checkpoint covers.
    Every(Duration),
}

/// INTEROP: what Kafka's clients do by default (`auto.commit.interval.ms`).
const AUTOMATIC_INTERVAL: Duration = Duration::from_secs(5);
/// Bounds what a crash repeats at high rates. At 20 000 events a second it is two writes a second.
const AUTOMATIC_EVENTS: u64 = 10_000;

impl CheckpointPolicy {
    /// What keeps account of what is to be written, unless the application writes itself. `is_parallel`: even then it
    /// only asks, because the events before may not be done. `is_due`: the first event is to be written at once.
    pub(super) fn progress(self, is_parallel: bool, is_due: bool) -> Option<Progress> {
        match self.cadence() {
            Some(cadence) => Some(Progress::new(cadence, is_due)),
            None => is_parallel.then(Progress::on_demand),
        }
    }

    /// When to write; `None` if the application does.
    fn cadence(self) -> Option<Cadence> {
        let never = Cadence::default();
        match self {
            Self::Manual => None,
            Self::Automatic => Some(Cadence {
                events: Some(AUTOMATIC_EVENTS),
                time: Some(AUTOMATIC_INTERVAL),
                ..never
            }),
            Self::EveryBatch => Some(Cadence {
                at_batch_end: true,
                ..never
            }),
            Self::EveryEvents(events) => Some(Cadence {
                events: Some(events.get()),
                ..never
            }),
            Self::Every(time) => Some(Cadence {
                time: Some(time),
                ..never
            }),
        }
    }
}

/// What to do when somebody else has moved a partition's checkpoint back: another SDK that wrote late, since those write
/// without a condition, or an operator. Noticed at our next checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckpointRegression {
    /// Writes our progress over it, counts and logs that. The default.
    #[default]
    Heal,
    /// Starts the partition again from the stored checkpoint: somebody rewound it on purpose. The checkpoint under way
    /// fails with [`MovedBack`](crate::CheckpointError::MovedBack).
    Adopt,
}

/// What to do when a partition cannot start where it should, because its checkpoint (or a start position that was
/// asked for) leads nowhere: the event hub was created anew or failed over, or the record cannot be read. Kafka's
/// `auto.offset.reset`.
///
/// It is told to [`on_error`](super::EventHandler::on_error) as
/// [`InvalidPosition`](crate::ProcessingError::InvalidPosition) in any case, and concerns that partition only. With any
/// choice but [`Fail`](Self::Fail) the next checkpoint replaces the stored one, even by a lower sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidPosition {
    /// Leaves the partition unread and tries again every `max_retry_delay`. The default: only somebody who knows the
    /// data can tell whether to read it again or to give it up.
    #[default]
    Fail,
    /// Starts with the oldest event.
    Earliest,
    /// Starts with the next event that is enqueued.
    Latest,
    /// Starts after everything enqueued up to a time.
    EnqueuedTime(SystemTime),
}

impl InvalidPosition {
    /// Where to start instead, if anywhere.
    pub(super) fn position(self) -> Option<EventPosition> {
        match self {
            Self::Fail => None,
            Self::Earliest => Some(EventPosition::Earliest),
            Self::Latest => Some(EventPosition::Latest),
            Self::EnqueuedTime(time) => Some(EventPosition::enqueued_time(time)),
        }
    }
}
