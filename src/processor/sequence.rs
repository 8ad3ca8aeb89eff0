//! Whether the events of a term come one after the other. Pure.
//!
//! A link that is sound delivers without gaps and never goes back. What was delivered before is dropped. A gap may be a fault
//! of the link, so the log is asked a second time, by another link; one that shows again is in the log: retention was
//! faster than we, or the log is compacted.

/// Gaps that were real, after which nobody asks twice any more: this log has gaps.
const CONVINCED_AFTER: u32 = 3;

/// What to make of the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the next one.
    Next,
    /// It was delivered before.
    Again,
    /// Events before it are missing, and the log has not been asked again.
    Gap,
    /// It is the next one: so many before it are not in the log.
    After { missing: i64 },
}

/// The sequence numbers of one term.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    last: Option<i64>,
    /// Whether that one was delivered in this term. If not, a service that begins before it knows better: its log may
    /// be another one.
    is_delivered: bool,
    /// Messages since then whose number could not be read.
    unreadable: i64,
    /// The event before which a gap was seen.
    suspected: Option<i64>,
    real_gaps: u32,
}

impl Sequence {
    /// Notes that the term starts after this event.
    pub(super) fn start_after(&mut self, number: i64) {
        self.last = Some(number);
    }

    /// The last event delivered, or the one that the term started after.
    pub(super) fn last(&self) -> Option<i64> {
        self.last
    }

    pub(super) fn judge(&self, number: i64) -> Arrival {
        let Some(last) = self.last else {
            return Arrival::Next;
        };
        if number <= last {
            return if self.is_delivered {
                Arrival::Again
            } else {
                Arrival::Next
            };
        }
        match number - last - 1 {
            missing if missing <= self.unreadable => Arrival::Next,
            missing if self.suspected == Some(number) || self.real_gaps >= CONVINCED_AFTER => {
                Arrival::After { missing }
            }
            _ => Arrival::Gap,
        }
    }

    /// Notes that the log is asked again because of a gap before this event.
    pub(super) fn suspect(&mut self, number: i64) {
        self.suspected = Some(number);
    }

    /// Notes that a message was passed whose number could not be read.
    pub(super) fn pass_unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// Notes that an event is delivered.
    pub(super) fn deliver(&mut self, number: i64) {
        if let Arrival::After { .. } = self.judge(number) {
            self.real_gaps += 1;
        }
        self.last = Some(number);
        self.is_delivered = true;
        self.unreadable = 0;
        self.suspected = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: i64) -> Sequence {
        let mut sequence = Sequence::default();
        sequence.deliver(number);
        sequence
    }

    #[test]
    fn a_term_begins_anywhere_and_goes_on_by_one() {
        assert_eq!(Sequence::default().judge(17), Arrival::Next);
        let sequence = at(17);
        assert_eq!(sequence.judge(18), Arrival::Next);
        assert_eq!(sequence.judge(17), Arrival::Again);
        assert_eq!(sequence.judge(3), Arrival::Again);
    }

    #[test]
    fn a_checkpoint_says_where_a_gap_would_be_and_takes_no_event_away() {
        let mut sequence = Sequence::default();
        sequence.start_after(17);
        assert_eq!(sequence.judge(18), Arrival::Next);
        assert_eq!(sequence.judge(20), Arrival::Gap);
        assert_eq!(sequence.judge(0), Arrival::Next, "another log");
        sequence.deliver(0);
        assert_eq!(sequence.judge(0), Arrival::Again);
        assert_eq!(sequence.judge(1), Arrival::Next);
    }

    #[test]
    fn a_gap_is_believed_once_it_shows_again() {
        let mut sequence = at(17);
        assert_eq!(sequence.judge(20), Arrival::Gap);
        sequence.suspect(20);
        assert_eq!(sequence.judge(18), Arrival::Next, "the link was at fault");
        assert_eq!(sequence.judge(20), Arrival::After { missing: 2 });
        assert_eq!(sequence.judge(21), Arrival::Gap, "another one");
        sequence.deliver(20);
        assert_eq!(sequence.judge(21), Arrival::Next);
        assert_eq!(sequence.judge(23), Arrival::Gap);
    }

    #[test]
    fn a_message_without_a_number_is_no_gap() {
        let mut sequence = at(17);
        sequence.pass_unreadable();
        assert_eq!(sequence.judge(19), Arrival::Next);
        assert_eq!(sequence.judge(20), Arrival::Gap);
        sequence.deliver(19);
        assert_eq!(sequence.judge(21), Arrival::Gap);
    }

    #[test]
    fn a_log_that_has_gaps_is_not_asked_for_each() {
        let mut sequence = at(0);
        for number in [10, 20, 30] {
            assert_eq!(sequence.judge(number), Arrival::Gap);
            sequence.suspect(number);
            sequence.deliver(number);
        }
        assert_eq!(sequence.judge(40), Arrival::After { missing: 9 });
    }
}
