//! Numbers and choices of a processor.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::balance::LoadBalancingStrategy;
use crate::error::BuildError;
use crate::model::{EventPosition, OwnerId, PartitionId};
use crate::transport::ReceiverOptions;

/// Options of an [`EventProcessor`](super::EventProcessor). Start from `default()` and change fields, or use the
/// builder's `with_*` methods.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorOptions {
    /// Identity in ownership records. Default: a random one for each processor.
    pub owner_id: Option<OwnerId>,
    /// How many partitions to claim at a time. Default: [`Greedy`](LoadBalancingStrategy::Greedy).
    pub load_balancing_strategy: LoadBalancingStrategy,
    /// Time between two load-balancing cycles, ±10 %. Default: 10 s, as in JS and Go.
    pub load_balancing_interval: Duration,
    /// Age after which another processor's ownership counts as expired. Default: 120 s, as in .NET and Java, whose
    /// processors renew every 30 s: with less, a slow one of theirs would be robbed. At least twice the interval.
    pub partition_ownership_expiration: Duration,
    /// Where to start in a partition that has no checkpoint. Default: [`Latest`](EventPosition::Latest), as in the
    /// other SDKs.
    pub default_starting_position: EventPosition,
    /// The same for single partitions.
    pub starting_positions: BTreeMap<PartitionId, EventPosition>,
    /// Most events that wait in memory for each partition. Default: 300.
    pub prefetch: NonZeroU32,
    /// `None` (default): `on_event` is called for each event. `Some(n)`: `on_event_batch` is called with up to `n`.
    pub max_batch_size: Option<NonZeroUsize>,
    /// How long to wait for events: after that, `on_idle` is called if none came; in batch mode it is also how long
    /// a batch may take to fill. Default: `None`: no idle calls, and a batch is what is there.
    pub max_wait_time: Option<Duration>,
    /// Whether each event tells what the newest event of its partition is. Default: true, as in .NET.
    pub track_last_enqueued_event_properties: bool,
    /// How long a graceful stop waits for handlers that are running. After that they are cut. Default: 30 s.
    pub shutdown_timeout: Duration,
    /// First wait before trying a partition again after a failure; doubles up to
    /// [`max_retry_delay`](Self::max_retry_delay). Default: 0.8 s, as in .NET, Java and Python.
    pub retry_delay: Duration,
    /// Longest wait before trying a partition again. Default: 60 s, as in .NET and Java.
    pub max_retry_delay: Duration,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            owner_id: None,
            load_balancing_strategy: LoadBalancingStrategy::default(),
            load_balancing_interval: Duration::from_secs(10),
            partition_ownership_expiration: Duration::from_secs(120),
            default_starting_position: EventPosition::Latest,
            starting_positions: BTreeMap::new(),
            prefetch: ReceiverOptions::DEFAULT_PREFETCH,
            max_batch_size: None,
            max_wait_time: None,
            track_last_enqueued_event_properties: true,
            shutdown_timeout: Duration::from_secs(30),
            retry_delay: Duration::from_millis(800),
            max_retry_delay: Duration::from_secs(60),
        }
    }
}

/// Beyond this the arithmetic of deadlines would overflow; nobody means it.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// fe2o3-amqp's session window: more credit than that could stall the session for every link on it
/// (measured; see ARCHITECTURE.md, non-obvious).
const MAX_PREFETCH: u32 = 5000;

impl ProcessorOptions {
    pub(super) fn validate(&self) -> Result<(), BuildError> {
        let invalid = |option, reason: String| Err(BuildError::InvalidOption { option, reason });
        for (option, value) in [
            ("load_balancing_interval", self.load_balancing_interval),
            (
                "partition_ownership_expiration",
                self.partition_ownership_expiration,
            ),
            ("retry_delay", self.retry_delay),
            ("max_retry_delay", self.max_retry_delay),
            ("max_wait_time", self.max_wait_time.unwrap_or(MAX_DURATION)),
        ] {
            if value.is_zero() || value > MAX_DURATION {
                return invalid(option, format!("{value:?} is not between 0 and a year"));
            }
        }
        if self.shutdown_timeout > MAX_DURATION {
            return invalid(
                "shutdown_timeout",
                format!("{:?} is over a year", self.shutdown_timeout),
            );
        }
        let (interval, expiration) = (
            self.load_balancing_interval,
            self.partition_ownership_expiration,
        );
        if expiration < interval.saturating_mul(2) {
            return invalid(
                "partition_ownership_expiration",
                format!(
                    "{expiration:?} is less than twice the load_balancing_interval {interval:?}"
                ),
            );
        }
        if expiration < interval.saturating_mul(3) {
            tracing::warn!(
                ?expiration,
                ?interval,
                "partition_ownership_expiration is less than three times load_balancing_interval: \
                 one slow renewal can cost a partition"
            );
        }
        if self.prefetch.get() > MAX_PREFETCH {
            return invalid(
                "prefetch",
                format!("{} is over {MAX_PREFETCH}", self.prefetch),
            );
        }
        Ok(())
    }

    /// Where to start in a partition without a checkpoint.
    pub(super) fn starting_position(&self, partition_id: &PartitionId) -> EventPosition {
        self.starting_positions
            .get(partition_id)
            .unwrap_or(&self.default_starting_position)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ProcessorOptions)) -> String {
        let mut options = ProcessorOptions::default();
        change(&mut options);
        options.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        ProcessorOptions::default().validate().unwrap();
    }

    #[test]
    fn an_expiration_below_two_intervals_is_refused_with_both_values() {
        let message =
            refused(|options| options.partition_ownership_expiration = Duration::from_secs(19));
        assert!(
            message.contains("19s") && message.contains("10s"),
            "{message}"
        );
    }

    #[test]
    fn zero_and_endless_durations_are_refused_by_name() {
        assert!(refused(|o| o.load_balancing_interval = Duration::ZERO).contains("interval"));
        assert!(refused(|o| o.max_retry_delay = Duration::MAX).contains("max_retry_delay"));
        assert!(refused(|o| o.shutdown_timeout = Duration::MAX).contains("shutdown_timeout"));
        assert!(refused(|o| o.prefetch = NonZeroU32::MAX).contains("prefetch"));
    }
}
