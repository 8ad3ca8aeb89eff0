//! How a pump is told to stop, and why.

use tokio_util::sync::CancellationToken;

use super::handler::CloseReason;

/// Stops one pump: with the whole processor, or because its partition was lost. Clones share the signal.
#[derive(Clone, Debug)]
pub(super) struct StopSignal {
    lost: CancellationToken,
    /// Cancelled by either cause.
    stopping: CancellationToken,
}

impl StopSignal {
    pub(super) fn new(shutdown: &CancellationToken) -> Self {
        Self {
            lost: CancellationToken::new(),
            stopping: shutdown.child_token(),
        }
    }

    /// Tells the pump that its partition is somebody else's now.
    pub(super) fn lose(&self) {
        // In this order: whoever sees `stopping` sees the reason too.
        self.lost.cancel();
        self.stopping.cancel();
    }

    /// Tells the pump to finish as in a shutdown: what it has done still counts.
    pub(super) fn finish(&self) {
        self.stopping.cancel();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Cancelled when the pump is to stop.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Why the pump is to stop, if it is.
    pub(super) fn reason(&self) -> Option<CloseReason> {
        self.stopping.is_cancelled().then(|| {
            if self.is_lost() {
                CloseReason::OwnershipLost
            } else {
                CloseReason::Shutdown
            }
        })
    }

    /// Completes when the pump is to stop. Cancel safe.
    pub(super) async fn stopped(&self) -> CloseReason {
        self.stopping.cancelled().await;
        self.reason().unwrap_or(CloseReason::Shutdown)
    }
}
