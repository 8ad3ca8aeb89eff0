//! Replies that a fault holds back.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::Instant;

use super::limits::MAX_LATE_REPLIES;
use super::signal::LinkKey;

/// Replies in the order in which they are due; those due together keep the order of their requests.
#[derive(Debug, Default)]
pub(crate) struct LateReplies {
    waiting: BTreeMap<(Instant, u64), (LinkKey, Bytes)>,
    last: u64,
}

impl LateReplies {
    /// Keeps a reply until then. One too many is lost.
    pub(crate) fn push(&mut self, due: Instant, link: LinkKey, reply: Bytes) {
        if self.waiting.len() < MAX_LATE_REPLIES {
            self.last += 1;
            self.waiting.insert((due, self.last), (link, reply));
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(LinkKey, Bytes)> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
