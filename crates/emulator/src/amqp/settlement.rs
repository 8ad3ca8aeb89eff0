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
    delivery_id: u32,
    outcome: Outcome,
}

impl Settlements {
    pub(crate) fn push(&mut self, now: Instant, channel: u16, delivery_id: u32, outcome: Outcome) {
        self.0.push_back(Settlement {
            due: now + DISPOSITION_DELAY,
            channel,
            delivery_id,
            outcome,
        });
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.front().map(|settlement| settlement.due)
    }

    /// Writes what is due.
    pub(crate) fn flush(&mut self, now: Instant, output: &mut Output) {
        self.flush_while(output, |settlement| settlement.due <= now);
    }

    /// Writes all, because a link or session is about to end.
    pub(crate) fn flush_all(&mut self, output: &mut Output) {
        self.flush_while(output, |_| true);
    }

    /// Neighbours with the same outcome become a range: a fast publisher gets one disposition for
    /// many messages.
    fn flush_while(&mut self, output: &mut Output, is_due: impl Fn(&Settlement) -> bool) {
        while let Some(first) = self.take_first(&is_due) {
            let mut last = first.delivery_id;
            let joins = |s: &Settlement, last: u32| {
                is_due(s)
                    && s.channel == first.channel
                    && s.delivery_id == last.wrapping_add(1)
                    && s.outcome == first.outcome
            };
            while self.take_first(|s| joins(s, last)).is_some() {
                last = last.wrapping_add(1);
            }
            output.write(|buf| {
                let (channel, id) = (first.channel, first.delivery_id);
                outgoing::disposition(buf, channel, id, last, &first.outcome);
            });
        }
    }

    fn take_first(&mut self, is_wanted: impl Fn(&Settlement) -> bool) -> Option<Settlement> {
        if !self.0.front().is_some_and(is_wanted) {
            return None;
        }
        self.0.pop_front()
    }
}
