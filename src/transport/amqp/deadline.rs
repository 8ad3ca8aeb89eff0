//! Nothing waits for ever: a deadline and the end of the client around every await.

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{TransportError, TransportErrorKind};

/// Until when an operation may take, and whether the client is closing meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    at: Instant,
    closed: CancellationToken,
}

impl Deadline {
    pub(super) fn new(at: Instant, closed: &CancellationToken) -> Self {
        Self {
            at,
            closed: closed.clone(),
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// The same deadline, or `at` if that is earlier.
    pub(super) fn or_earlier(&self, at: Instant) -> Self {
        Self {
            at: self.at.min(at),
            closed: self.closed.clone(),
        }
    }

    /// Waits for `work`, at most until the deadline or the end of the client. `doing` stands in the error.
    pub(super) async fn wait<T>(
        &self,
        doing: &str,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, TransportError> {
        tokio::select! {
            // The end of the client first: what is done after it would be done for nobody.
            biased;
            () = self.closed.cancelled() => {
                Err(TransportError::new(TransportErrorKind::Closed, doing))
            }
            result = timeout_at(self.at, work) => {
                result.map_err(|_| TransportError::new(TransportErrorKind::Timeout, doing))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_until_done_or_late_or_closed() {
        let closed = CancellationToken::new();
        let deadline = Deadline::new(Instant::now() + Duration::from_secs(9), &closed);
        assert_eq!(deadline.wait("x", ready(1)).await.unwrap(), 1);
        let error = deadline.wait("x", pending::<()>()).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Timeout);
        closed.cancel();
        let error = deadline.wait("x", ready(1)).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Closed);
    }
}
