//! No recovery by azeventhubs: it re-attaches after a theft, and never replays from a sequence number.

use std::error::Error;
use std::time::Duration;

use azeventhubs::{EventHubsRetryOptions, EventHubsRetryPolicy};

/// What azeventhubs waits for an event before it asks for more credit. In doing so it drops the event it may just be
/// settling, so it must not happen; deadlines are ours.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Fails at the first error.
#[derive(Clone, Debug)]
pub(crate) struct NoRecovery;

impl From<EventHubsRetryOptions> for NoRecovery {
    fn from(_: EventHubsRetryOptions) -> Self {
        Self
    }
}

impl EventHubsRetryPolicy for NoRecovery {
    fn calculate_try_timeout(&self, _: u32) -> Duration {
        NEVER
    }

    fn calculate_retry_delay(&self, _: &dyn Error, _: u32) -> Option<Duration> {
        None
    }
}
