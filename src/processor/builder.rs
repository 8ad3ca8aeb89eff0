//! Puts a processor together.

use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::EventProcessor;
use super::budget::MemoryBudget;
use super::checkpointer::Notes;
use super::control_thread::{At, Place};
use super::failure::FailurePolicy;
use super::fence::Lease;
use super::handler::{ErasedHandler, EventHandler};
use super::options::{ControlThread, LoadBalancingProfile, ProcessorOptions, UnprovenOwnership};
use super::parallel::OrderingKey;
use super::policies::{CheckpointPolicy, CheckpointRegression, InvalidPosition};
use super::pull::{PullProcessor, Puller};
use super::pump::Shared;
use super::restart::Restarts;
use super::status::{Board, CountedStore};
use super::stopper::{Running, Stopper};
use crate::balance::{LoadBalancingStrategy, kin_id, promised_suspect_time};
use crate::checkpoint::{CheckpointStore, validate};
use crate::dead_letter::DeadLetterSink;
use crate::error::BuildError;
use crate::model::{EventPosition, GroupScope, OwnerId, PartitionId, ReceivedEvent};
use crate::retry::RetryMode;
use crate::transport::Transport;

/// Describes an [`EventProcessor`]. Every `with_*` method sets one field of [`ProcessorOptions`], where its default
/// and its limits are written.
#[derive(Clone, Debug)]
pub struct EventProcessorBuilder {
    transport: Arc<dyn Transport>,
    consumer_group: String,
    store: Arc<dyn CheckpointStore>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    ordering_key: OrderingKey,
    memory: MemoryBudget,
    options: ProcessorOptions,
}

impl EventProcessorBuilder {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        consumer_group: String,
        store: Arc<dyn CheckpointStore>,
    ) -> Self {
        Self {
            transport,
            consumer_group,
            store,
            dead_letters: None,
            ordering_key: OrderingKey::default(),
            memory: MemoryBudget::default(),
            options: ProcessorOptions::default(),
        }
    }

    /// Replaces all options.
    #[must_use]
    pub fn with_options(mut self, options: ProcessorOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the identity in ownership records: visible ASCII, at most 128 characters, unlike that of any other
    /// running processor of the group.
    #[must_use]
    pub fn with_owner_id(mut self, owner_id: impl Into<OwnerId>) -> Self {
        self.options.owner_id = Some(owner_id.into());
        self
    }

    /// Sets a name to appear in the owner id. Unlike [`with_owner_id`](Self::with_owner_id) it keeps the promise by
    /// which other processors of this crate notice a crash early.
    #[must_use]
    pub fn with_owner_name(mut self, owner_name: impl Into<String>) -> Self {
        self.options.owner_name = Some(owner_name.into());
        self
    }

    /// Sets interval, suspect time and expiration as a profile says.
    #[must_use]
    pub fn with_load_balancing_profile(mut self, profile: LoadBalancingProfile) -> Self {
        self.options.set_load_balancing_profile(profile);
        self
    }

    /// Sets the silence after which other processors of this crate may take this one for dead.
    #[must_use]
    pub fn with_ownership_suspect_time(mut self, suspect_time: Duration) -> Self {
        self.options.ownership_suspect_time = Some(suspect_time);
        self
    }

    /// Sets how long a graceful stop goes on reading until others have taken over.
    #[must_use]
    pub fn with_linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// Sets whether a graceful stop leaves the partitions in this processor's name.
    #[must_use]
    pub fn with_keep_ownership_on_stop(mut self, keep: bool) -> Self {
        self.options.keep_ownership_on_stop = keep;
        self
    }

    /// Sets what to do with a partition that may no longer be ours.
    #[must_use]
    pub fn with_unproven_ownership(mut self, policy: UnprovenOwnership) -> Self {
        self.options.unproven_ownership = policy;
        self
    }

    /// Fixes all that chance decides in this processor: its owner id, its pace and its waits.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.options.seed = Some(seed);
        self
    }

    /// Sets how many partitions to claim at a time.
    #[must_use]
    pub fn with_load_balancing_strategy(mut self, strategy: LoadBalancingStrategy) -> Self {
        self.options.load_balancing_strategy = strategy;
        self
    }

    /// Sets the time between two load-balancing cycles.
    #[must_use]
    pub fn with_load_balancing_interval(mut self, interval: Duration) -> Self {
        self.options.load_balancing_interval = interval;
        self
    }

    /// Sets the age after which another processor's ownership counts as expired.
    #[must_use]
    pub fn with_partition_ownership_expiration(mut self, expiration: Duration) -> Self {
        self.options.partition_ownership_expiration = expiration;
        self
    }

    /// Sets when checkpoints are written.
    #[must_use]
    pub fn with_checkpoint_policy(mut self, policy: CheckpointPolicy) -> Self {
        self.options.checkpoint_policy = policy;
        self
    }

    /// Sets what to do when somebody else has moved a checkpoint back.
    #[must_use]
    pub fn with_checkpoint_regression(mut self, policy: CheckpointRegression) -> Self {
        self.options.checkpoint_regression = policy;
        self
    }

    /// Sets whether a claim has the checkpoint written once more, so that no older owner can move it.
    #[must_use]
    pub fn with_strict_fencing(mut self, strict: bool) -> Self {
        self.options.strict_fencing = strict;
        self
    }

    /// Sets what to do when a checkpoint, or a start position, leads nowhere.
    #[must_use]
    pub fn with_invalid_position(mut self, policy: InvalidPosition) -> Self {
        self.options.invalid_position = policy;
        self
    }

    /// Sets how many events of one partition are processed at the same time.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.options.concurrency = concurrency;
        self
    }

    /// Sets how many events of one partition may be taken and not yet be part of what is done without a gap.
    #[must_use]
    pub fn with_max_in_flight(mut self, max_in_flight: NonZeroUsize) -> Self {
        self.options.max_in_flight = max_in_flight;
        self
    }

    /// Sets what events are ordered by when several are processed at a time: events with equal keys one after the
    /// other, in the order of the partition; events with `None` in no order. Default: the partition key.
    ///
    /// `key` is called once for each event and must not block.
    #[must_use]
    pub fn with_ordering_key<K: Hash>(
        mut self,
        key: impl Fn(&ReceivedEvent) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        self.ordering_key = OrderingKey::by(key);
        self
    }

    /// Sets how much memory the events of all partitions may take. Default: a budget of its own of 256 MiB, 8 MiB a
    /// partition at most.
    #[must_use]
    pub fn with_memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// Sets what happens to events whose hook fails.
    #[must_use]
    pub fn with_failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.options.failure_policy = policy;
        self
    }

    /// Sets where [`FailureAction::DeadLetter`](super::FailureAction::DeadLetter) stores events. Default: nowhere; a
    /// policy that needs it is refused then.
    #[must_use]
    pub fn with_dead_letter_sink(mut self, sink: impl DeadLetterSink) -> Self {
        self.dead_letters = Some(Arc::new(sink));
        self
    }

    /// Sets where to start in a partition that has no checkpoint.
    #[must_use]
    pub fn with_default_starting_position(mut self, position: EventPosition) -> Self {
        self.options.default_starting_position = position;
        self
    }

    /// Sets where to start in one partition if it has no checkpoint.
    #[must_use]
    pub fn with_starting_position(
        mut self,
        partition_id: impl Into<PartitionId>,
        position: EventPosition,
    ) -> Self {
        self.options
            .starting_positions
            .insert(partition_id.into(), position);
        self
    }

    /// Sets how many events may wait in memory for each partition.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: NonZeroU32) -> Self {
        self.options.prefetch = prefetch;
        self
    }

    /// Has `on_event_batch` called with up to this many events.
    #[must_use]
    pub fn with_max_batch_size(mut self, max_batch_size: NonZeroUsize) -> Self {
        self.options.max_batch_size = Some(max_batch_size);
        self
    }

    /// Sets how long to wait for events before `on_idle`, and for a batch to fill.
    #[must_use]
    pub fn with_max_wait_time(mut self, max_wait_time: Duration) -> Self {
        self.options.max_wait_time = Some(max_wait_time);
        self
    }

    /// Sets whether each event tells what the newest event of its partition is.
    #[must_use]
    pub fn with_track_last_enqueued_event_properties(mut self, track: bool) -> Self {
        self.options.track_last_enqueued_event_properties = track;
        self
    }

    /// Sets how long nothing may come from a partition that is behind before something is done about it; `None`: never.
    #[must_use]
    pub fn with_stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.stall_timeout = timeout;
        self
    }

    /// Sets how long a hook may run before a warning is logged; `None`: for ever.
    #[must_use]
    pub fn with_slow_handler_warning(mut self, after: Option<Duration>) -> Self {
        self.options.slow_handler_warning = after;
        self
    }

    /// Sets how long a graceful stop waits for running handlers.
    #[must_use]
    pub fn with_shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.options.shutdown_timeout = timeout;
        self
    }

    /// Sets how the waits grow before a failed partition is tried again.
    #[must_use]
    pub fn with_retry_mode(mut self, mode: RetryMode) -> Self {
        self.options.retry_mode = mode;
        self
    }

    /// Sets the first and the longest wait before a failed partition is tried again.
    #[must_use]
    pub fn with_retry_delay(mut self, first: Duration, max: Duration) -> Self {
        self.options.retry_delay = first;
        self.options.max_retry_delay = max;
        self
    }

    /// Sets where the processor's own work runs; see [`ControlThread`].
    #[must_use]
    pub fn with_control_thread(mut self, control_thread: ControlThread) -> Self {
        self.options.control_thread = control_thread;
        self
    }

    /// Makes the processor. Nothing is sent before it runs.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidOption`], naming the option.
    pub fn build(self, handler: impl EventHandler) -> Result<EventProcessor, BuildError> {
        self.build_erased(Arc::new(handler))
    }

    /// Makes a processor without a handler, whose partitions and events are streams. Nothing is sent before it is
    /// spawned.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); `concurrency` and `max_batch_size` are for handlers and refused here.
    pub fn build_pull(self) -> Result<PullProcessor, BuildError> {
        for (option, is_set) in [
            ("concurrency", self.options.concurrency.get() > 1),
            ("max_batch_size", self.options.max_batch_size.is_some()),
        ] {
            if is_set {
                let reason = "a stream hands out one event at a time".to_owned();
                return Err(BuildError::InvalidOption { option, reason });
            }
        }
        let puller = Arc::new(Puller::default());
        let processor = self.build_erased(Arc::clone(&puller) as Arc<dyn ErasedHandler>)?;
        Ok(PullProcessor::new(processor, puller))
    }

    pub(crate) fn build_erased(
        self,
        handler: Arc<dyn ErasedHandler>,
    ) -> Result<EventProcessor, BuildError> {
        self.options.validate()?;
        if self.consumer_group.is_empty() {
            return Err(BuildError::InvalidOption {
                option: "consumer_group",
                reason: "it is empty; the default group is called `$Default`".to_owned(),
            });
        }
        if self.options.failure_policy.needs_dead_letters() && self.dead_letters.is_none() {
            return Err(BuildError::InvalidOption {
                option: "failure_policy",
                reason: "it asks for dead letters, and no dead letter sink is set".to_owned(),
            });
        }
        let mut rng = match self.options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        let suspect_time = self.options.suspect_time();
        let owner_id = match (&self.options.owner_id, &self.options.owner_name) {
            (Some(owner_id), _) => valid_owner_id(owner_id, "owner_id")?,
            (None, Some(name)) if name.is_empty() => {
                return Err(BuildError::InvalidOption {
                    option: "owner_name",
                    reason: "it is empty".to_owned(),
                });
            }
            (None, Some(name)) => valid_owner_id(&kin_id(suspect_time, name), "owner_name")?,
            (None, None) => {
                let name = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
                kin_id(suspect_time, &name.to_string())
            }
        };
        // Who makes no promise is judged by the age of each record alone.
        let lease = match promised_suspect_time(&owner_id) {
            Some(Duration::ZERO) => {
                return Err(BuildError::InvalidOption {
                    option: "owner_id",
                    reason: format!("{owner_id:?} says that its owner is leaving"),
                });
            }
            Some(promised) => Lease::new(promised),
            None => Lease::new(self.options.partition_ownership_expiration),
        };
        let scope = GroupScope::new(
            self.transport.fully_qualified_namespace(),
            self.transport.event_hub_name(),
            self.consumer_group,
        );
        let Self {
            transport,
            store,
            options,
            dead_letters,
            ordering_key,
            memory,
            ..
        } = self;
        let stopper = Stopper::new(options.shutdown_timeout);
        let place = Place::default();
        let (store, calls) = CountedStore::new(Arc::new(At {
            place: place.clone(),
            inner: store,
        }));
        let transport = Arc::new(At {
            place: place.clone(),
            inner: transport,
        });
        let (notes, restarts) = (Arc::<Notes>::default(), Arc::<Restarts>::default());
        let board = Board::new(
            scope.clone(),
            owner_id.clone(),
            Arc::clone(&notes),
            Arc::clone(&restarts),
            calls,
        );
        let shared = Shared {
            scope,
            owner_id,
            transport,
            store: Arc::new(store),
            handler,
            options,
            lease: Arc::new(lease),
            rng: Mutex::new(rng),
            notes,
            dead_letters,
            ordering_key,
            memory,
            stopper: stopper.clone(),
            restarts,
            _ended: board.ended.clone().drop_guard(),
            board: Arc::new(board),
        };
        Ok(EventProcessor {
            shared: Arc::new(shared),
            place,
            running: Running(stopper),
        })
    }
}

/// Refuses what a store would refuse, before anything runs.
fn valid_owner_id(owner_id: &OwnerId, option: &'static str) -> Result<OwnerId, BuildError> {
    match validate::owner_id(owner_id) {
        Ok(()) => Ok(owner_id.clone()),
        Err(error) => Err(BuildError::InvalidOption {
            option,
            reason: format!("{owner_id:?}: {error}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::InMemoryCheckpointStore;
    use crate::processor::handler_fn;
    use crate::transport::fake::FakeEventHub;

    fn owner_id(
        change: impl FnOnce(EventProcessorBuilder) -> EventProcessorBuilder,
    ) -> Result<String, BuildError> {
        let hub = FakeEventHub::new(1);
        let builder = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new());
        let processor = change(builder).build(handler_fn(async |_, _| Ok(())))?;
        Ok(processor.owner_id().to_string())
    }

    #[tokio::test]
    async fn ids_promise_unless_the_user_wrote_them() {
        let random = owner_id(|b| b).unwrap();
        assert!(random.starts_with("rs1-25000-"), "{random}");
        assert_ne!(random, owner_id(|b| b).unwrap());
        let seeded = owner_id(|b| b.with_seed(1)).unwrap();
        assert_eq!(seeded, owner_id(|b| b.with_seed(1)).unwrap());
        let named = owner_id(|b| {
            b.with_load_balancing_profile(LoadBalancingProfile::Economy)
                .with_owner_name("web-3")
        });
        assert_eq!(named.unwrap(), "rs1-75000-web-3");
        assert_eq!(owner_id(|b| b.with_owner_id("web-3")).unwrap(), "web-3");
    }

    #[tokio::test]
    async fn ids_that_cannot_work_are_refused_by_name() {
        let refused = |result: Result<String, BuildError>| result.unwrap_err().to_string();
        assert!(refused(owner_id(|b| b.with_owner_name(""))).contains("owner_name"));
        assert!(refused(owner_id(|b| b.with_owner_name("a\n"))).contains("owner_name"));
        assert!(refused(owner_id(|b| b.with_owner_name("x".repeat(128)))).contains("owner_name"));
        assert!(refused(owner_id(|b| b.with_owner_id(" a"))).contains("owner_id"));
        assert!(refused(owner_id(|b| b.with_owner_id("rs1-0-a"))).contains("leaving"));
    }
}
