//! Numbers for terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::history::TermId;

/// Gives each term of a run its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    next: Arc<AtomicU32>,
}

impl Terms {
    pub(crate) fn next(&self) -> TermId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
