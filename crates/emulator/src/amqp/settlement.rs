//! Dispositions we owe, held back for a moment.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::codec::outgoing::{self, Outcome};
use super::limits::DISPOSITION_DELAY;
use super::output::Output;

/// Outcomes in the order in which their messages arrived.
#[derive(Debug, Default)]
pub(crate) struct Settlements(VecDeque<Settlement>);

#[derive(Debug)]
struct Settlement {
    due: Instant,
    channel: u16,
    first: u32,
    last: u32,
    outcome: Outcome,
}

impl Settlements {
    /// Notes an outcome. Neighbours with the same one become a range, so that a fast publisher gets
    /// one disposition for many messages.
    pub(crate) fn push(&mut self, now: Instant, channel: u16, delivery_id: u32, outcome: Outcome) {
        if let Some(newest) = self.0.back_mut()
            && newest.channel == channel
            && newest.last.wrapping_add(1) == delivery_id
            && newest.outcome == outcome
            // Who joins the range is settled with it, so only as long as the delay is still kept.
            && now + DISPOSITION_DELAY <= newest.due
        {
            newest.last = delivery_id;
            return;
        }
        // Twice the delay: the first half is open for others to join.
        let due = now + DISPOSITION_DELAY * 2;
        let settlement = Settlement {
            due,
            channel,
            first: delivery_id,
            last: delivery_id,
            outcome,
        };
        self.0.push_back(settlement);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.front().map(|settlement| settlement.due)
    }

    /// Writes what is due.
    pub(crate) fn flush(&mut self, now: Instant, output: &mut Output) {
        while self.next_due().is_some_and(|due| due <= now) {
            self.write_first(output);
        }
    }

    /// Writes all, because a link or session is about to end.
    pub(crate) fn flush_all(&mut self, output: &mut Output) {
        while !self.0.is_empty() {
            self.write_first(output);
        }
    }

    fn write_first(&mut self, output: &mut Output) {
        if let Some(s) = self.0.pop_front() {
            output.write(|buf| {
                outgoing::disposition(buf, s.channel, s.first, s.last, &s.outcome);
            });
        }
    }
}
