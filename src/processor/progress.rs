//! How far a partition is done, and when a policy writes that down. Pure: time comes in as an argument.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::{Offset, ReceivedEvent};

/// When a checkpoint is due: as soon as one of these says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cadence {
    /// After so many events.
    pub(super) events: Option<u64>,
    /// So long after the first event that no checkpoint covers.
    pub(super) time: Option<Duration>,
    pub(super) at_batch_end: bool,
}

/// An event, as a checkpoint names it. Keeps the event: what its offset is, is found out when it is written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    event: ReceivedEvent,
}

impl Place {
    pub(super) fn of(event: &ReceivedEvent) -> Self {
        Self {
            event: event.clone(),
        }
    }

    pub(super) fn sequence_number(&self) -> i64 {
        self.event.sequence_number()
    }

    pub(super) fn offset(&self) -> &Offset {
        self.event.offset()
    }

    pub(super) fn enqueued_time(&self) -> SystemTime {
        self.event.enqueued_time()
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.sequence_number() == other.sequence_number() && self.offset() == other.offset()
    }
}

/// The completed prefix of a term and the part of it that is written down. One value, not a list: a later checkpoint
/// covers all before it.
#[derive(Debug)]
pub(super) struct Progress {
    cadence: Cadence,
    /// The last event of the completed prefix.
    completed: Option<Place>,
    /// The last event that a checkpoint covers.
    covered: Option<i64>,
    /// What the write under way covers.
    writing: Option<i64>,
    /// Events that neither is written nor being written.
    uncovered: u64,
    /// When the first of them was completed.
    uncovered_since: Option<Instant>,
    is_due: bool,
    retry_at: Option<Instant>,
    /// Only what is wished for is written.
    is_on_demand: bool,
    /// The end of what is done, however much of it is wished for.
    done: Option<i64>,
    /// Checkpoints that the application asked for before everything up to them was done.
    wishes: BTreeMap<i64, Place>,
}

/// What the writer is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Write this now.
    Write(Place),
    /// Nothing before then, unless something changes.
    WaitUntil(Instant),
    /// Nothing unless something changes.
    Wait,
}

impl Progress {
    /// `is_due`: the first event is to be written at once.
    pub(super) fn new(cadence: Cadence, is_due: bool) -> Self {
        Self {
            cadence,
            completed: None,
            covered: None,
            writing: None,
            uncovered: 0,
            uncovered_since: None,
            is_due,
            retry_at: None,
            is_on_demand: false,
            done: None,
            wishes: BTreeMap::new(),
        }
    }

    /// Has nothing written but what the application asks for.
    pub(super) fn on_demand() -> Self {
        Self {
            is_on_demand: true,
            ..Self::new(Cadence::default(), false)
        }
    }

    /// Asks for a checkpoint as soon as everything up to `place` is done. Returns whether the writer has to look.
    pub(super) fn wish(&mut self, place: Place) -> bool {
        self.wishes.insert(place.sequence_number(), place);
        self.grant()
    }

    /// Has written what is wished for and done.
    fn grant(&mut self) -> bool {
        let mut granted = None;
        while let Some(wish) = self.wishes.first_entry()
            && Some(*wish.key()) <= self.done
        {
            granted = Some(wish.remove());
        }
        let Some(place) = granted else {
            return false;
        };
        let is_new = |last: &Place| last.sequence_number() < place.sequence_number();
        if self.is_on_demand && self.completed.as_ref().is_none_or(is_new) {
            self.completed = Some(place);
        }
        self.is_due = true;
        true
    }

    /// Notes that `events` more events are done, `place` the last of them. Returns whether the writer has to look.
    pub(super) fn completed(&mut self, place: Place, events: u64, now: Instant) -> bool {
        self.done = Some(place.sequence_number());
        if self.is_on_demand {
            return self.grant();
        }
        self.completed = Some(place);
        self.grant();
        let is_first = self.uncovered_since.is_none();
        self.uncovered_since.get_or_insert(now);
        self.uncovered += events;
        self.is_due |= self
            .cadence
            .events
            .is_some_and(|every| self.uncovered >= every);
        self.is_due || (is_first && self.cadence.time.is_some())
    }

    /// Notes the end of a batch. Returns whether the writer has to look.
    pub(super) fn batch_ended(&mut self) -> bool {
        self.is_due |= self.cadence.at_batch_end;
        self.cadence.at_batch_end
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        let Some(place) = self.unwritten() else {
            return Next::Wait;
        };
        let due_at = if self.is_due {
            self.retry_at
        } else {
            let (Some(since), Some(time)) = (self.uncovered_since, self.cadence.time) else {
                return Next::Wait;
            };
            Some(since + time)
        };
        match due_at {
            Some(at) if at > now => Next::WaitUntil(at),
            _ => Next::Write(place),
        }
    }

    /// What is done and not written down.
    pub(super) fn unwritten(&self) -> Option<Place> {
        let place = self.completed.as_ref()?;
        (Some(place.sequence_number()) > self.covered).then(|| place.clone())
    }

    /// Notes that the write of a place begins.
    pub(super) fn write_began(&mut self, place: &Place) {
        self.writing = Some(place.sequence_number());
        self.uncovered = 0;
        self.uncovered_since = None;
        self.is_due = false;
        self.retry_at = None;
    }

    pub(super) fn write_succeeded(&mut self) {
        self.covered = self.writing.take().max(self.covered);
    }

    /// Notes that the write failed; whatever is the latest then is tried at `retry_at`.
    pub(super) fn write_failed(&mut self, retry_at: Instant) {
        self.writing = None;
        self.is_due = true;
        self.retry_at = Some(retry_at);
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::model::EventParts;

    fn place(sequence_number: i64) -> Place {
        let offset = sequence_number.to_string();
        let parts = EventParts::new(sequence_number, offset.as_str(), SystemTime::UNIX_EPOCH, "");
        Place::of(&ReceivedEvent::new(parts))
    }

    fn every_events(events: u64) -> Cadence {
        Cadence {
            events: Some(events),
            ..Cadence::default()
        }
    }

    fn every(seconds: u64) -> Cadence {
        Cadence {
            time: Some(Duration::from_secs(seconds)),
            ..Cadence::default()
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "any instant will do as the first"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn so_many_events_are_due_together() {
        let now = start();
        let mut progress = Progress::new(every_events(3), false);
        assert!(!progress.completed(place(0), 1, now));
        assert!(!progress.completed(place(1), 1, now));
        assert_eq!(progress.next(now), Next::Wait);
        assert!(progress.completed(place(2), 1, now));
        assert_eq!(progress.next(now), Next::Write(place(2)));
        progress.write_began(&place(2));
        // Two come during the write.
        assert!(!progress.completed(place(3), 2, now));
        progress.write_succeeded();
        assert_eq!(progress.next(now), Next::Wait);
        assert!(progress.completed(place(5), 1, now));
        assert_eq!(progress.next(now), Next::Write(place(5)));
    }

    #[test]
    fn time_counts_from_the_first_event_that_is_not_covered() {
        let now = start();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut progress = Progress::new(every(5), false);
        assert_eq!(progress.next(later(100)), Next::Wait, "nothing to write");
        assert!(progress.completed(place(0), 1, now), "the timer starts");
        assert!(!progress.completed(place(1), 1, later(4)), "and runs on");
        assert_eq!(progress.next(later(4)), Next::WaitUntil(later(5)));
        assert_eq!(progress.next(later(5)), Next::Write(place(1)));
        progress.write_began(&place(1));
        assert!(progress.completed(place(2), 1, later(7)));
        progress.write_succeeded();
        assert_eq!(progress.next(later(8)), Next::WaitUntil(later(12)));
    }

    #[test]
    fn a_batch_is_due_at_its_end() {
        let now = start();
        let cadence = Cadence {
            at_batch_end: true,
            ..Cadence::default()
        };
        let mut progress = Progress::new(cadence, false);
        assert!(!progress.completed(place(7), 8, now));
        assert_eq!(progress.next(now), Next::Wait);
        assert!(progress.batch_ended());
        assert_eq!(progress.next(now), Next::Write(place(7)));
        let mut others = Progress::new(every_events(100), false);
        others.completed(place(7), 8, now);
        assert!(!others.batch_ended());
        assert_eq!(others.next(now), Next::Wait);
    }

    #[test]
    fn a_failed_write_is_tried_again_with_the_latest_event_and_not_before_its_time() {
        let now = start();
        let retry_at = now + Duration::from_secs(3);
        let mut progress = Progress::new(every_events(1), false);
        progress.completed(place(0), 1, now);
        progress.write_began(&place(0));
        progress.completed(place(1), 1, now);
        progress.write_failed(retry_at);
        progress.completed(place(2), 1, now);
        assert_eq!(progress.next(now), Next::WaitUntil(retry_at));
        assert_eq!(progress.next(retry_at), Next::Write(place(2)));
        assert_eq!(progress.unwritten(), Some(place(2)));
        progress.write_began(&place(2));
        progress.write_succeeded();
        assert_eq!(progress.unwritten(), None);
        assert_eq!(progress.next(retry_at), Next::Wait);
    }

    #[test]
    fn what_is_still_being_written_is_not_yet_written() {
        let now = start();
        let mut progress = Progress::new(every_events(1), false);
        progress.completed(place(0), 1, now);
        progress.write_began(&place(0));
        assert_eq!(progress.unwritten(), Some(place(0)));
    }

    #[test]
    fn a_wish_is_granted_once_everything_before_it_is_done() {
        let now = start();
        let mut progress = Progress::on_demand();
        assert!(!progress.wish(place(2)));
        assert!(!progress.completed(place(1), 2, now), "nobody asked for it");
        assert_eq!(progress.unwritten(), None);
        assert!(progress.completed(place(4), 3, now));
        assert_eq!(
            progress.next(now),
            Next::Write(place(2)),
            "no more than that"
        );
        progress.write_began(&place(2));
        progress.write_succeeded();
        assert_eq!(progress.unwritten(), None);
        assert!(progress.wish(place(3)), "done already");
        assert_eq!(progress.next(now), Next::Write(place(3)));
    }

    #[test]
    fn with_a_policy_a_wish_makes_the_completed_prefix_due() {
        let now = start();
        let mut progress = Progress::new(every_events(100), false);
        progress.wish(place(2));
        assert!(!progress.completed(place(1), 2, now));
        assert_eq!(progress.next(now), Next::Wait);
        assert!(progress.completed(place(5), 4, now));
        assert_eq!(progress.next(now), Next::Write(place(5)));
    }

    #[test]
    fn after_a_reset_the_first_event_is_due_at_once() {
        let now = start();
        let mut progress = Progress::new(every(3600), true);
        assert_eq!(progress.next(now), Next::Wait);
        assert!(progress.completed(place(0), 1, now));
        assert_eq!(progress.next(now), Next::Write(place(0)));
        progress.write_began(&place(0));
        progress.write_succeeded();
        progress.completed(place(1), 1, now);
        assert_ne!(progress.next(now), Next::Write(place(1)));
    }

    proptest! {
        /// Whatever happens: only completed events are written, each place is higher than the last, and once all is
        /// quiet a due write covers everything.
        #[test]
        fn writes_grow_and_cover_all_that_was_completed(
            every in 1u64..5,
            steps in proptest::collection::vec((0u8..4, 1u64..4), 1..60),
        ) {
            let mut now = start();
            let mut progress = Progress::new(every_events(every), false);
            let (mut last, mut written) = (-1i64, -1i64);
            for (step, amount) in steps {
                match step {
                    0 | 1 => {
                        last += i64::try_from(amount).unwrap();
                        progress.completed(place(last), amount, now);
                    }
                    2 => now += Duration::from_millis(amount * 500),
                    _ => if let Next::Write(place) = progress.next(now) {
                        prop_assert!(place.sequence_number() > written && place.sequence_number() <= last);
                        progress.write_began(&place);
                        if amount == 1 {
                            progress.write_failed(now + Duration::from_secs(1));
                        } else {
                            progress.write_succeeded();
                            written = place.sequence_number();
                        }
                    }
                }
            }
            prop_assert_eq!(progress.unwritten().is_none(), written == last);
        }
    }
}
