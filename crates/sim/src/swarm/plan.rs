//! What a seed stands for: a group, its work, and what goes wrong when.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use eventhubs_processor::{CheckpointPolicy, LoadBalancingStrategy, ProcessorOptions};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::fault::{Fault, FaultKind};
use super::mishaps::Context;
use crate::history::Time;
use crate::peers::{PeerKind, Sdk};
use crate::seed::Seed;

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) partitions: u32,
    /// How many processors of ours.
    pub(crate) slots: usize,
    pub(crate) peers: Vec<PeerPlan>,
    pub(crate) options: ProcessorOptions,
    /// Mean time between two events of a partition.
    pub(crate) append_ms: Time,
    pub(crate) handler_ms: (u64, u64),
    pub(crate) checkpoint_every: i64,
    pub(crate) chaos_ms: Time,
    pub(crate) faults: Vec<Fault>,
}

/// A foreign processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerPlan {
    pub(crate) kind: PeerKind,
    pub(crate) skew_ms: i64,
}

/// Upper limits on parts of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Partitions at the start.
    pub partitions: Option<u32>,
    /// Processors of ours.
    pub slots: Option<usize>,
    /// Foreign ones.
    pub peers: Option<usize>,
    /// How long faults go on, in milliseconds.
    pub chaos_ms: Option<u64>,
}

impl Cuts {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            partitions: other.partitions.or(self.partitions),
            slots: other.slots.or(self.slots),
            peers: other.peers.or(self.peers),
            chaos_ms: other.chaos_ms.or(self.chaos_ms),
        }
    }
}

impl Plan {
    pub(crate) fn new(seed: Seed) -> Self {
        let mut rng = seed.stream("topology", 0);
        let partitions = if rng.random_range(0..8) == 0 {
            rng.random_range(16..=48)
        } else {
            rng.random_range(1..=12)
        };
        let slots = rng.random_range(1..=5);
        let peers = peers(&mut rng);
        let mut options = options(&mut rng, !peers.is_empty());
        more_options(&mut seed.stream("more options", 0), &mut options);
        let mut rng = seed.stream("workload", 0);
        let append_ms = *[300, 1000, 3000].choose(&mut rng).unwrap_or(&1000);
        let max = rng.random_range(0..=append_ms / 5);
        let handler_ms = (0, max);
        let checkpoint_every = *[1, 1, 2, 7, 30].choose(&mut rng).unwrap_or(&1);
        let mut rng = seed.stream("fault plan", 0);
        let chaos_ms = rng.random_range(60_000..=300_000);
        let count = rng.random_range(0..=12);
        let expiry = u64::try_from(options.partition_ownership_expiration.as_millis());
        let context = Context {
            slots,
            peers: peers.len(),
            partitions,
            expiry: expiry.unwrap_or(60_000),
            interval: u64::try_from(options.load_balancing_interval.as_millis()).unwrap_or(10_000),
        };
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = rng.random_range(0..chaos_ms);
                let (kind, lasts) = context.fault(&mut rng);
                let lasts = lasts.min(chaos_ms - at);
                Fault { at, lasts, kind }
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        faults.extend(context.rarer(&mut seed.stream("rarer faults", 0), chaos_ms));
        faults.extend(context.cut_off(&mut seed.stream("cut off", 0), chaos_ms));
        Self {
            partitions,
            slots,
            peers,
            options,
            append_ms,
            handler_ms,
            checkpoint_every,
            chaos_ms,
            faults,
        }
    }

    /// Makes everything smaller, for a failure that does not need it all.
    pub(crate) fn cut(&mut self, cuts: Cuts) {
        if let Some(partitions) = cuts.partitions {
            self.partitions = self.partitions.min(partitions.max(1));
        }
        if let Some(slots) = cuts.slots {
            self.slots = self.slots.min(slots.max(1));
        }
        if let Some(peers) = cuts.peers {
            self.peers.truncate(peers);
        }
        if let Some(chaos_ms) = cuts.chaos_ms {
            self.chaos_ms = self.chaos_ms.min(chaos_ms);
        }
        for fault in &mut self.faults {
            fault.at = fault.at.min(self.chaos_ms);
            fault.lasts = fault.lasts.min(self.chaos_ms - fault.at);
        }
    }

    /// Whether a fault concerns somebody who is there.
    pub(crate) fn has_room_for(&self, fault: Fault) -> bool {
        fault.kind.slot().is_none_or(|slot| slot < self.slots)
            && (fault.kind.partition()).is_none_or(|partition| partition < self.partitions)
            && fault.kind.peer().is_none_or(|peer| peer < self.peers.len())
    }

    /// Events between two checkpoints by the application, if it writes them.
    pub(crate) fn checkpoint_every(&self) -> Option<i64> {
        let is_manual = self.options.checkpoint_policy == CheckpointPolicy::Manual;
        is_manual.then_some(self.checkpoint_every)
    }

    /// How long one processor may take for all partitions if its strategy takes them one in a round.
    pub(crate) fn one_by_one(&self, interval: Time) -> Time {
        if self.options.load_balancing_strategy != LoadBalancingStrategy::Balanced {
            return 0;
        }
        let added = self.faults.iter().map(|fault| match fault.kind {
            FaultKind::Grow { by } => by,
            _ => 0,
        });
        let partitions = self.partitions + added.sum::<u32>();
        let longest_round = (interval / 8).min(1000) * 7 / 5;
        Time::from(partitions) * longest_round
    }

    /// How long a write may be on its way.
    pub(crate) fn may_be_late(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|fault| matches!(fault.kind, FaultKind::StoreLossy { late, .. } if late > 0))
    }
}

fn peers(rng: &mut StdRng) -> Vec<PeerPlan> {
    let count = *[0, 0, 0, 0, 1, 1, 2, 3].choose(rng).unwrap_or(&0);
    (0..count)
        .map(|_| {
            let sdk = *Sdk::ALL.choose(rng).unwrap_or(&Sdk::Go);
            let is_greedy = rng.random_range(0..4) == 0 || sdk.with_defaults().is_greedy;
            let skew_ms = if rng.random_range(0..4) == 0 {
                rng.random_range(-200_000..=200_000)
            } else {
                rng.random_range(-2_000..=2_000)
            };
            PeerPlan {
                kind: PeerKind { sdk, is_greedy },
                skew_ms,
            }
        })
        .collect()
}

fn options(rng: &mut StdRng, has_peers: bool) -> ProcessorOptions {
    let mut options = ProcessorOptions::default();
    if !has_peers {
        let interval = Duration::from_secs(*[2, 5, 10].choose(rng).unwrap_or(&10));
        options.load_balancing_interval = interval;
        options.partition_ownership_expiration = interval * *[3, 6, 12].choose(rng).unwrap_or(&12);
    }
    if rng.random_range(0..4) == 0 {
        options.load_balancing_strategy = LoadBalancingStrategy::Balanced;
    }
    options.shutdown_timeout = Duration::from_secs(rng.random_range(1..=20));
    options.max_retry_delay = Duration::from_secs(8);
    options
}

/// Choices from a stream of their own, as for the rarer faults. Each policy checkpoints the last event in the end.
fn more_options(rng: &mut StdRng, options: &mut ProcessorOptions) {
    use CheckpointPolicy as Policy;
    let policies = [
        Policy::Manual,
        Policy::Manual,
        Policy::Manual,
        Policy::Automatic,
        Policy::EveryBatch,
        Policy::EveryEvents(NonZeroU64::MIN),
        Policy::Every(Duration::from_secs(3)),
    ];
    options.checkpoint_policy = *policies.choose(rng).unwrap_or(&Policy::Manual);
    let batches = [
        None,
        None,
        None,
        NonZeroUsize::new(5),
        NonZeroUsize::new(50),
    ];
    options.max_batch_size = *batches.choose(rng).unwrap_or(&None);
    if rng.random_range(0..4) == 0 {
        options.linger = Duration::ZERO;
    }
}
