//! Numbers and choices of a processor.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::failure::FailurePolicy;
use super::policies::{CheckpointPolicy, CheckpointRegression, InvalidPosition};
use crate::balance::LoadBalancingStrategy;
use crate::error::BuildError;
use crate::model::{EventPosition, OwnerId, PartitionId};
use crate::retry::{Backoff, RetryMode};
use crate::transport::ReceiverOptions;

/// Options of an [`EventProcessor`](super::EventProcessor). Start from `default()` and change fields, or use the
/// builder's `with_*` methods.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorOptions {
    /// Identity in ownership records, written exactly as given. Default: a random one for each processor.
    ///
    /// A random id tells other processors of this crate how long a silence means that its owner is dead
    /// ([`ownership_suspect_time`](Self::ownership_suspect_time)). An id of your own does not: like that of any other
    /// SDK it counts as alive until `partition_ownership_expiration` has passed, and a processor that starts with it
    /// takes up what it owned before. Use [`owner_name`](Self::owner_name) to have a name *and* the quick takeover.
    pub owner_id: Option<OwnerId>,
    /// A name to appear in the owner id instead of a random one, such as that of the host. Two processors of one
    /// consumer group must not share it. Default: none.
    pub owner_name: Option<String>,
    /// How many partitions to claim at a time. Default: [`Greedy`](LoadBalancingStrategy::Greedy).
    pub load_balancing_strategy: LoadBalancingStrategy,
    /// Time between two load-balancing cycles, ±10 %. Default: 10 s, as in JS and Go.
    pub load_balancing_interval: Duration,
    /// Age after which the ownership of any other processor counts as expired. Default: 120 s, as in .NET and Java,
    /// whose processors renew every 30 s: with less, a slow one of theirs would be robbed. At least twice the interval.
    pub partition_ownership_expiration: Duration,
    /// Silence after which other processors of this crate may take this one for dead, and take over all its
    /// partitions. It shows life every `load_balancing_interval`. The time is part of the owner id, so processors with
    /// different settings share a group. Default: two and a half intervals (25 s), but at least 3 s, since ages in blob
    /// storage are rounded to a second. At least twice the interval, at most the expiration.
    pub ownership_suspect_time: Option<Duration>,
    /// How long a graceful stop goes on reading until other processors of this crate have taken over the partitions,
    /// each once the handler has finished with it: nothing is read twice, and there is no gap. Zero, or no such
    /// processor in the group: partitions are given back at once, and read again after the others' next cycle. Default:
    /// 15 s; at most half of `shutdown_timeout` is used.
    pub linger: Duration,
    /// Whether a graceful stop leaves the partitions in this processor's name, so that a restart under the same
    /// `owner_id` or `owner_name` finds them where they were. It has until the expiration (with `owner_id`) or the
    /// suspect time (with `owner_name`); then others take them. Default: false.
    pub keep_ownership_on_stop: bool,
    /// What to do while neither the store nor the event hub confirms that a partition is still ours. Default:
    /// [`Pause`](UnprovenOwnership::Pause).
    pub unproven_ownership: UnprovenOwnership,
    /// When checkpoints are written. Default: [`Manual`](CheckpointPolicy::Manual), by the handler.
    pub checkpoint_policy: CheckpointPolicy,
    /// What to do when somebody else has moved a checkpoint back. Default: [`Heal`](CheckpointRegression::Heal).
    pub checkpoint_regression: CheckpointRegression,
    /// Whether a partition that is claimed has its checkpoint written once more, unchanged, before it is read. No
    /// checkpoint of an older owner of this crate is accepted after that; without it an older owner can still *raise*
    /// the checkpoint, to an event that it has processed. Costs a write for each claim. Owners of other SDKs write
    /// without a condition and cannot be kept out. Default: false.
    pub strict_fencing: bool,
    /// How many events of one partition are processed at the same time. Default: 1, one after the other.
    ///
    /// With more, each event still goes to [`on_event`](super::EventHandler::on_event), in a task of its own. Events of
    /// one key (the partition key, or [`with_ordering_key`](super::EventProcessorBuilder::with_ordering_key)) run one
    /// after the other, in order; events without a key in no order. Checkpoints follow the completed prefix: an event
    /// is checkpointed once it and everything before it is done, and until then
    /// [`update_checkpoint`](super::PartitionContext::update_checkpoint) only notes the wish. A crash therefore repeats
    /// up to `max_in_flight` events. Not with `max_batch_size`.
    pub concurrency: NonZeroUsize,
    /// With `concurrency`: how many events may be taken and not yet be part of the completed prefix. While one slow
    /// event is running, the others get so far ahead. At least `concurrency`. Default: 1,000, and 8 MiB.
    pub max_in_flight: NonZeroUsize,
    /// What to do when the handler fails for an event. Default: the partition starts again from its checkpoint.
    pub failure_policy: FailurePolicy,
    /// What to do when a checkpoint, or a start position, leads nowhere. Default: [`Fail`](InvalidPosition::Fail), for
    /// that partition.
    pub invalid_position: InvalidPosition,
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
    /// How long nothing may come from a partition of which the service holds events, while its handler is free, before
    /// something is done about it: its receiver is opened again, then on a new connection, then the partition is given
    /// back, each if the one before brought nothing in this time
    /// ([`ProcessingError::Stalled`](crate::ProcessingError::Stalled)). A partition without new events is never touched.
    /// The service is asked about a partition of which nothing is heard every half of this time, once a minute at most.
    /// Default: 120 s, twice the idle timeout of a connection. `None`: nothing is done.
    pub stall_timeout: Option<Duration>,
    /// How long a hook may run before a warning is logged, once for each call. Nothing else happens: it may be as slow
    /// as it needs to be. Default: 60 s. `None`: no warning.
    pub slow_handler_warning: Option<Duration>,
    /// How long a graceful stop waits for handlers that are running. After that they are cut. Default: 30 s.
    pub shutdown_timeout: Duration,
    /// How the waits grow before something is tried again: opening a receiver, reading a checkpoint or the properties of
    /// the event hub, writing a policy's checkpoint, calling the handler again. There is no last try: what may pass never
    /// ends a processor. See [`RetryOptions`](crate::RetryOptions) for operations that do have one. Default:
    /// [`Exponential`](RetryMode::Exponential).
    pub retry_mode: RetryMode,
    /// First wait before trying a partition again after a failure; doubles up to
    /// [`max_retry_delay`](Self::max_retry_delay), unless `retry_mode` says otherwise. If the service or the store asks
    /// for a longer one, that is waited for, up to `max_retry_delay`. Default: 0.8 s, as in .NET, Java and Python.
    pub retry_delay: Duration,
    /// Longest wait before trying a partition again. Default: 60 s, as in .NET and Java.
    pub max_retry_delay: Duration,
    /// Where the processor's own work runs. Default: on a thread of its own if the runtime has several.
    pub control_thread: ControlThread,
    /// Fixes all that chance decides. For tests and simulations.
    pub(crate) seed: Option<u64>,
}

/// What a processor does with a partition of which it cannot tell whether it still owns it: no renewal was confirmed
/// for so long that others may have judged it dead, and its link to the event hub is down or silent. As long as one of
/// the two is sound, nothing pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnprovenOwnership {
    /// Calls no handler and refuses checkpoints until the ownership is proven again. The default.
    #[default]
    Pause,
    /// Goes on, as the other SDKs do: events may be processed twice meanwhile.
    Continue,
}

/// Where a processor's own work runs: load balancing, the calls to the store, the connection to the event hub. Hooks
/// always run on the runtime that the processor was started on.
///
/// With a thread of its own, a processor keeps its partitions and its connection while hooks block every thread of the
/// application's runtime; their partitions wait for them, and the log says so. A runtime that is stuck for good
/// therefore keeps its partitions until the process ends. What runs on that thread must not block it: user-made
/// [`TokenCredential`](crate::credential::TokenCredential)s, [`CheckpointStore`](crate::CheckpointStore)s and
/// [`Transport`](crate::Transport)s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlThread {
    /// [`Own`](Self::Own) on a multi-threaded runtime, [`Shared`](Self::Shared) on a current-thread runtime: whoever
    /// chose a single thread, or pauses the clock in a test, gets what he chose. The default.
    #[default]
    Auto,
    /// On a thread of its own, which ends with the processor.
    Own,
    /// On the runtime that the processor was started on, like the hooks. A hook that blocks its thread may then hold
    /// up everything: nothing is renewed, and after the suspect time others take the partitions.
    Shared,
}

/// What load balancing costs and how fast it is, as one choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadBalancingProfile {
    /// A cycle every 10 s, a crash noticed after 25 s. The default.
    #[default]
    Fast,
    /// A cycle every 15 s, a crash noticed after 40 s.
    Standard,
    /// A cycle every 30 s, a crash noticed after 75 s: as many storage operations as .NET and Java need.
    Economy,
}

impl LoadBalancingProfile {
    fn times(self) -> (Duration, Duration) {
        let (interval, suspect_time) = match self {
            Self::Fast => (10, 25),
            Self::Standard => (15, 40),
            Self::Economy => (30, 75),
        };
        (
            Duration::from_secs(interval),
            Duration::from_secs(suspect_time),
        )
    }
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            owner_id: None,
            owner_name: None,
            load_balancing_strategy: LoadBalancingStrategy::default(),
            load_balancing_interval: Duration::from_secs(10),
            partition_ownership_expiration: Duration::from_secs(120),
            ownership_suspect_time: None,
            linger: Duration::from_secs(15),
            keep_ownership_on_stop: false,
            unproven_ownership: UnprovenOwnership::default(),
            checkpoint_policy: CheckpointPolicy::default(),
            checkpoint_regression: CheckpointRegression::default(),
            strict_fencing: false,
            concurrency: NonZeroUsize::MIN,
            max_in_flight: const { NonZeroUsize::new(1000).unwrap() },
            failure_policy: FailurePolicy::default(),
            invalid_position: InvalidPosition::default(),
            default_starting_position: EventPosition::Latest,
            starting_positions: BTreeMap::new(),
            prefetch: ReceiverOptions::DEFAULT_PREFETCH,
            max_batch_size: None,
            max_wait_time: None,
            track_last_enqueued_event_properties: true,
            stall_timeout: Some(Duration::from_secs(120)),
            slow_handler_warning: Some(Duration::from_secs(60)),
            shutdown_timeout: Duration::from_secs(30),
            retry_mode: RetryMode::default(),
            retry_delay: Duration::from_millis(800),
            max_retry_delay: Duration::from_secs(60),
            control_thread: ControlThread::default(),
            seed: None,
        }
    }
}

/// Beyond this the arithmetic of deadlines would overflow; nobody means it.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// fe2o3-amqp's session window: more credit than that could stall the session for every link on it
/// (measured; see ARCHITECTURE.md, non-obvious).
const MAX_PREFETCH: u32 = 5000;

/// Below this, ages that are rounded to a second say too little.
const MIN_SUSPECT_TIME: Duration = Duration::from_secs(3);

/// INTEROP: half the shortest expiration of any SDK (JS, Go and Rust).
const FOREIGN_RENEWAL: Duration = Duration::from_secs(30);

/// The renewal period of .NET, Java and Python, three times: a foreign owner may be that late and alive.
const FOREIGN_EXPIRATION: Duration = Duration::from_secs(90);

impl ProcessorOptions {
    /// Sets interval, suspect time and expiration.
    pub fn set_load_balancing_profile(&mut self, profile: LoadBalancingProfile) {
        let (interval, suspect_time) = profile.times();
        self.load_balancing_interval = interval;
        self.ownership_suspect_time = Some(suspect_time);
        self.partition_ownership_expiration = Self::default().partition_ownership_expiration;
    }

    /// The waits between tries.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_mode, self.retry_delay, self.max_retry_delay)
    }

    /// The silence after which our own kind may take us for dead.
    pub(super) fn suspect_time(&self) -> Duration {
        self.ownership_suspect_time.unwrap_or_else(|| {
            (self.load_balancing_interval * 5 / 2)
                .max(MIN_SUSPECT_TIME)
                .min(self.partition_ownership_expiration)
        })
    }

    /// Whether live owners of other SDKs may be taken for dead.
    pub(super) fn is_hasty_with_others(&self) -> bool {
        self.partition_ownership_expiration < FOREIGN_EXPIRATION
    }

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
            ("stall_timeout", self.stall_timeout.unwrap_or(MAX_DURATION)),
            (
                "slow_handler_warning",
                self.slow_handler_warning.unwrap_or(MAX_DURATION),
            ),
        ] {
            if value.is_zero() || value > MAX_DURATION {
                return invalid(option, format!("{value:?} is not between 0 and a year"));
            }
        }
        for (option, value) in [
            ("shutdown_timeout", self.shutdown_timeout),
            ("linger", self.linger),
        ] {
            if value > MAX_DURATION {
                return invalid(option, format!("{value:?} is over a year"));
            }
        }
        if let CheckpointPolicy::Every(time) = self.checkpoint_policy
            && (time.is_zero() || time > MAX_DURATION)
        {
            return invalid(
                "checkpoint_policy",
                format!("{time:?} is not between 0 and a year"),
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
        let suspect_time = self.suspect_time();
        if suspect_time < interval.saturating_mul(2) || suspect_time > expiration {
            return invalid(
                "ownership_suspect_time",
                format!(
                    "{suspect_time:?} is not between twice the load_balancing_interval {interval:?} and the \
                     partition_ownership_expiration {expiration:?}"
                ),
            );
        }
        if suspect_time < MIN_SUSPECT_TIME {
            tracing::warn!(
                ?suspect_time,
                "ownership_suspect_time is less than three seconds: blob storage rounds ages to one"
            );
        }
        if interval > FOREIGN_RENEWAL {
            tracing::warn!(
                ?interval,
                "load_balancing_interval is more than half a minute: JS, Go and Rust processors take a partition \
                 over once its record is a minute old"
            );
        }
        if self.keep_ownership_on_stop && self.owner_id.is_none() && self.owner_name.is_none() {
            return invalid(
                "keep_ownership_on_stop",
                "it needs an owner_id or an owner_name: under a random id nobody comes back"
                    .to_owned(),
            );
        }
        if self.owner_id.is_some() && self.owner_name.is_some() {
            return invalid(
                "owner_name",
                "owner_id is set as well; one of them names the processor".to_owned(),
            );
        }
        if self.concurrency.get() > 1 && self.max_batch_size.is_some() {
            return invalid(
                "concurrency",
                "max_batch_size is set as well; a batch is processed as a whole".to_owned(),
            );
        }
        if self.max_in_flight < self.concurrency {
            return invalid(
                "max_in_flight",
                format!(
                    "{} is less than the concurrency {}",
                    self.max_in_flight, self.concurrency
                ),
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
    use crate::processor::tests::log::Log;

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
        assert!(refused(|o| o.stall_timeout = Some(Duration::ZERO)).contains("stall_timeout"));
        assert!(refused(|o| o.slow_handler_warning = Some(Duration::MAX)).contains("slow_handler"));
        let never = CheckpointPolicy::Every(Duration::ZERO);
        assert!(refused(|o| o.checkpoint_policy = never).contains("checkpoint_policy"));
    }

    #[test]
    fn the_suspect_time_follows_the_interval_within_what_works() {
        let suspect_time = |interval, expiration| {
            let options = ProcessorOptions {
                load_balancing_interval: Duration::from_millis(interval),
                partition_ownership_expiration: Duration::from_secs(expiration),
                ..ProcessorOptions::default()
            };
            options.validate().unwrap();
            options.suspect_time().as_millis()
        };
        assert_eq!(suspect_time(10_000, 120), 25_000);
        assert_eq!(suspect_time(500, 5), 3_000, "ages are rounded to a second");
        assert_eq!(
            suspect_time(10_000, 20),
            20_000,
            "not beyond the expiration"
        );
        assert!(
            refused(|o| o.ownership_suspect_time = Some(Duration::from_secs(19)))
                .contains("ownership_suspect_time")
        );
        assert!(
            refused(|o| o.ownership_suspect_time = Some(Duration::from_secs(121))).contains("121s")
        );
    }

    /// What is logged when options are looked at that are valid.
    fn logged(change: impl FnOnce(&mut ProcessorOptions)) -> String {
        let mut options = ProcessorOptions::default();
        change(&mut options);
        let (log, _guard) = Log::listen();
        options.validate().unwrap();
        let lines = log.lines();
        assert!(lines.len() <= 1, "{lines:?}");
        lines.concat()
    }

    #[test]
    fn odd_settings_that_work_are_warned_of_once_each() {
        assert_eq!(logged(|_| {}), "");
        let expiration = logged(|o| o.partition_ownership_expiration = Duration::from_secs(29));
        assert!(expiration.contains("less than three times"), "{expiration}");
        assert!(expiration.contains("29s") && expiration.contains("10s"));
        let suspect_time = logged(|o| {
            o.load_balancing_interval = Duration::from_secs(1);
            o.ownership_suspect_time = Some(Duration::from_millis(2900));
        });
        assert!(suspect_time.contains("less than three seconds"));
        let interval = logged(|o| o.load_balancing_interval = Duration::from_secs(31));
        assert!(interval.contains("more than half a minute"), "{interval}");
    }

    #[test]
    fn every_profile_is_valid() {
        for profile in [
            LoadBalancingProfile::Fast,
            LoadBalancingProfile::Standard,
            LoadBalancingProfile::Economy,
        ] {
            let mut options = ProcessorOptions::default();
            options.set_load_balancing_profile(profile);
            options.validate().unwrap();
            assert!(!options.is_hasty_with_others(), "{profile:?}");
        }
    }

    #[test]
    fn names_that_contradict_each_other_are_refused() {
        assert!(refused(|o| o.keep_ownership_on_stop = true).contains("keep_ownership_on_stop"));
        let message = refused(|o| {
            o.owner_id = Some("a".into());
            o.owner_name = Some("b".into());
        });
        assert!(message.contains("owner_name"), "{message}");
        assert!(refused(|o| o.linger = Duration::MAX).contains("linger"));
    }
}
