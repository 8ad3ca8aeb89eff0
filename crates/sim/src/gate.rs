//! Pauses of a whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Through this goes everything a processor says to the outside or hears from it. While it is shut the processor is
/// as good as not scheduled: nothing leaves it, nothing reaches it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    is_shut: AtomicBool,
    opened: Notify,
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.inner.is_shut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) {
        self.inner.is_shut.store(false, Ordering::Relaxed);
        self.inner.opened.notify_waiters();
    }

    /// Waits while the gate is shut.
    pub(crate) async fn pass(&self) {
        while self.inner.is_shut.load(Ordering::Relaxed) {
            self.inner.opened.notified().await;
        }
    }
}
