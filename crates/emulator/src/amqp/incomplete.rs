//! How much messages take of which some frames are still to come.
//!
//! Each of them is bounded, but a peer may begin one on each of its links and never end any.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::limits::MAX_INCOMPLETE;

/// The room that all incomplete messages share.
#[derive(Debug, Clone)]
pub(crate) struct Incomplete {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Default for Incomplete {
    fn default() -> Self {
        Self::with_limit(MAX_INCOMPLETE)
    }
}

impl Incomplete {
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// The part of one message, empty so far.
    pub(crate) fn part(&self) -> Part {
        Part {
            of: self.clone(),
            len: 0,
        }
    }
}

/// What one message takes; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    of: Incomplete,
    len: usize,
}

impl Part {
    /// Takes more; false if there is no room.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let taken = self.of.used.fetch_add(by, Ordering::Relaxed);
        self.len += by;
        taken.saturating_add(by) <= self.of.limit
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.len, Ordering::Relaxed);
    }
}
