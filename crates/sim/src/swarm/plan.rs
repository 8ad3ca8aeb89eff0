//! What a seed stands for: a group, its work, and what goes wrong when.

use std::fmt;
use std::time::Duration;

use eventhubs_processor::{LoadBalancingStrategy, ProcessorOptions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

use crate::history::Time;
use crate::peers::{PeerKind, Sdk};
use crate::seed::Seed;
use crate::store::Weather;

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

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// After the start of the chaos.
    pub(crate) at: Time,
    pub(crate) lasts: Time,
    pub(crate) kind: FaultKind,
}

/// What goes wrong. Rates are in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FaultKind {
    /// One of ours dies and comes back with another id.
    Crash { slot: usize },
    /// Attaches fail.
    FailedAttaches { rate: u32 },
    /// The hub gets more partitions.
    Grow { by: u32 },
    /// Handlers fail.
    HandlerErrors { rate: u32 },
    /// Handlers panic.
    HandlerPanics { rate: u32 },
    /// Handlers take up to this long.
    HandlerSlow { ms: u64 },
    /// One more of ours for a while; it stops gracefully.
    Join,
    /// All links of one of ours break.
    LinkDropAll { slot: usize },
    /// The links of one partition break.
    LinkDrop { partition: u32 },
    /// One of ours is not scheduled.
    Pause { slot: usize },
    /// A foreign processor dies and comes back.
    PeerCrash { peer: usize },
    /// A foreign processor stops and comes back.
    PeerRestart { peer: usize },
    /// One of ours stops gracefully and comes back with another id.
    Restart { slot: usize },
    /// The store is unreachable for everybody.
    StoreDown,
    /// The store is unreachable for one of ours.
    StoreDownFor { slot: usize },
    /// Requests and replies get lost or come late.
    StoreLossy {
        failed: u32,
        lost_requests: u32,
        lost_replies: u32,
        late: u32,
    },
    /// The store takes longer.
    StoreSlow { factor: u32 },
}

impl FaultKind {
    /// Whether it leaves everybody's way to the store alone.
    pub(crate) fn is_fair(self) -> bool {
        self.weather() == Weather::default() && !matches!(self, Self::StoreDownFor { .. })
    }

    /// What it does to everybody's way to the store.
    pub(crate) fn weather(self) -> Weather {
        let fair = Weather::default();
        match self {
            Self::StoreDown => Weather {
                is_down: true,
                ..fair
            },
            Self::StoreLossy {
                failed,
                lost_requests,
                lost_replies,
                late,
            } => Weather {
                failed,
                lost_requests,
                lost_replies,
                late,
                ..fair
            },
            Self::StoreSlow { factor } => Weather {
                slow: factor,
                ..fair
            },
            _ => fair,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms for {} ms", self.kind, self.at, self.lasts)
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
        let options = options(&mut rng, !peers.is_empty());
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

struct Context {
    slots: usize,
    peers: usize,
    partitions: u32,
    expiry: Time,
}

impl Context {
    fn fault(&self, rng: &mut impl Rng) -> (FaultKind, Time) {
        let slot = rng.random_range(0..self.slots);
        let short = rng.random_range(1_000..30_000);
        let long = rng.random_range(1_000..self.expiry * 2);
        match rng.random_range(0..20) {
            0 | 1 => (FaultKind::Crash { slot }, long),
            2 | 3 => (FaultKind::Restart { slot }, short),
            4..=6 => (FaultKind::Pause { slot }, long),
            7 => (FaultKind::StoreDown, long),
            8 => (FaultKind::StoreDownFor { slot }, long),
            9 => {
                let factor = *[5, 20, 80, 400].choose(rng).unwrap_or(&20);
                (FaultKind::StoreSlow { factor }, long)
            }
            10..=12 => {
                let mut rate = || *[0, 0, 20, 100, 300].choose(rng).unwrap_or(&0);
                let kind = FaultKind::StoreLossy {
                    failed: rate(),
                    lost_requests: rate(),
                    lost_replies: rate(),
                    late: rate(),
                };
                (kind, long)
            }
            13 => {
                let partition = rng.random_range(0..self.partitions);
                (FaultKind::LinkDrop { partition }, 0)
            }
            14 => (FaultKind::LinkDropAll { slot }, 0),
            15 => (FaultKind::FailedAttaches { rate: 500 }, short),
            16 => match rng.random_range(0..3) {
                0 => (FaultKind::HandlerErrors { rate: 100 }, short),
                1 => (FaultKind::HandlerPanics { rate: 50 }, short),
                _ => (FaultKind::HandlerSlow { ms: 15_000 }, short),
            },
            17 => (FaultKind::Join, long),
            18 if self.peers > 0 => {
                let peer = rng.random_range(0..self.peers);
                if rng.random_range(0..2) == 0 {
                    (FaultKind::PeerCrash { peer }, long)
                } else {
                    (FaultKind::PeerRestart { peer }, short)
                }
            }
            _ => {
                let by = rng.random_range(1..=4);
                (FaultKind::Grow { by }, 0)
            }
        }
    }
}
