//! What a seed stands for: a group, its work, and what goes wrong when.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use eventhubs_processor::error::TransportErrorKind;
use eventhubs_processor::{CheckpointPolicy, LoadBalancingStrategy, ProcessorOptions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

use crate::history::Time;
use crate::marks::Mark;
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
    /// Attaches are not answered.
    AttachHangs,
    /// Attaches are refused for a reason.
    AttachRefused { kind: TransportErrorKind },
    /// An operator deletes a checkpoint.
    CheckpointDeleted { partition: u32 },
    /// One of ours dies and comes back with another id.
    Crash { slot: usize },
    /// Attaches fail.
    FailedAttaches { rate: u32 },
    /// The hub gets more partitions.
    Grow { by: u32 },
    /// Handlers fail.
    HandlerErrors { rate: u32 },
    /// Handlers do not return before this is over.
    HandlerHangs { rate: u32 },
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
    /// One of ours hears nothing from the hub, and is not told so.
    LinkSilence { slot: usize },
    /// The hub does not tell its partitions.
    ManagementDown,
    /// The hub tells half of its partitions.
    ManagementShort,
    /// Somebody outside of the group reads a partition, at a higher level.
    Outsider { partition: u32 },
    /// An operator deletes an ownership record.
    OwnershipDeleted { partition: u32 },
    /// One of ours is not scheduled.
    Pause { slot: usize },
    /// A foreign processor dies and comes back.
    PeerCrash { peer: usize },
    /// A foreign processor stops and comes back.
    PeerRestart { peer: usize },
    /// The hub sends the last event once more.
    Repeats { rate: u32 },
    /// One of ours stops gracefully and comes back with another id.
    Restart { slot: usize },
    /// Listings show the past.
    StaleListings { ms: Time },
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
        repeated: u32,
    },
    /// The store takes longer.
    StoreSlow { factor: u32 },
    /// An operator writes the owner of a partition once more, again and again.
    Touched { partition: u32 },
}

impl FaultKind {
    /// Whether it leaves everybody's way to the store alone.
    pub(crate) fn is_fair(self) -> bool {
        self.weather() == Weather::default() && !matches!(self, Self::StoreDownFor { .. })
    }

    /// Whether everybody can attach, to everything, and keep what it owns.
    pub(crate) fn is_hub_fair(self) -> bool {
        !matches!(
            self,
            Self::AttachHangs
                | Self::AttachRefused { .. }
                | Self::FailedAttaches { .. }
                | Self::LinkSilence { .. }
                | Self::ManagementDown
                | Self::ManagementShort
                | Self::Outsider { .. }
                | Self::Touched { .. }
        )
    }

    /// Which of ours it concerns, if it concerns one.
    pub(crate) fn slot(self) -> Option<usize> {
        match self {
            Self::Crash { slot }
            | Self::LinkDropAll { slot }
            | Self::LinkSilence { slot }
            | Self::Pause { slot }
            | Self::Restart { slot }
            | Self::StoreDownFor { slot } => Some(slot),
            _ => None,
        }
    }

    /// Which partition it concerns, if it concerns one.
    pub(crate) fn partition(self) -> Option<u32> {
        match self {
            Self::CheckpointDeleted { partition }
            | Self::LinkDrop { partition }
            | Self::Outsider { partition }
            | Self::OwnershipDeleted { partition }
            | Self::Touched { partition } => Some(partition),
            _ => None,
        }
    }

    /// Which foreign processor it concerns, if it concerns one.
    pub(crate) fn peer(self) -> Option<usize> {
        match self {
            Self::PeerCrash { peer } | Self::PeerRestart { peer } => Some(peer),
            _ => None,
        }
    }

    /// What shows that it was injected.
    pub(crate) fn mark(self) -> Mark {
        match self {
            Self::AttachHangs => Mark::FaultAttachHangs,
            Self::AttachRefused { .. } => Mark::FaultAttachRefused,
            Self::CheckpointDeleted { .. } => Mark::FaultCheckpointDeleted,
            Self::Crash { .. } => Mark::FaultCrash,
            Self::FailedAttaches { .. } => Mark::FaultFailedAttaches,
            Self::Grow { .. } => Mark::FaultGrow,
            Self::HandlerErrors { .. } => Mark::FaultHandlerErrors,
            Self::HandlerHangs { .. } => Mark::FaultHandlerHangs,
            Self::HandlerPanics { .. } => Mark::FaultHandlerPanics,
            Self::HandlerSlow { .. } => Mark::FaultHandlerSlow,
            Self::Join => Mark::FaultJoin,
            Self::LinkDrop { .. } => Mark::FaultLinkDrop,
            Self::LinkDropAll { .. } => Mark::FaultLinkDropAll,
            Self::LinkSilence { .. } => Mark::FaultLinkSilence,
            Self::ManagementDown => Mark::FaultManagementDown,
            Self::ManagementShort => Mark::FaultManagementShort,
            Self::Outsider { .. } => Mark::FaultOutsider,
            Self::OwnershipDeleted { .. } => Mark::FaultOwnershipDeleted,
            Self::Pause { .. } => Mark::FaultPause,
            Self::PeerCrash { .. } => Mark::FaultPeerCrash,
            Self::PeerRestart { .. } => Mark::FaultPeerRestart,
            Self::Repeats { .. } => Mark::FaultRepeats,
            Self::Restart { .. } => Mark::FaultRestart,
            Self::StaleListings { .. } => Mark::FaultStaleListings,
            Self::StoreDown => Mark::FaultStoreDown,
            Self::StoreDownFor { .. } => Mark::FaultStoreDownFor,
            Self::StoreLossy { .. } => Mark::FaultStoreLossy,
            Self::StoreSlow { .. } => Mark::FaultStoreSlow,
            Self::Touched { .. } => Mark::FaultTouched,
        }
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
                repeated,
            } => Weather {
                failed,
                lost_requests,
                lost_replies,
                late,
                repeated,
                ..fair
            },
            Self::StaleListings { ms } => Weather {
                stale_ms: ms,
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

struct Context {
    slots: usize,
    peers: usize,
    partitions: u32,
    expiry: Time,
    interval: Time,
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
                    repeated: 0,
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

    /// Faults from a stream of their own: seeds that are kept for what they once showed stay what they were without
    /// them.
    fn rarer(&self, rng: &mut impl Rng, chaos_ms: Time) -> Vec<Fault> {
        let mut faults = Vec::new();
        for _ in 0..*[0, 0, 1, 2, 3, 4].choose(rng).unwrap_or(&0) {
            let at = rng.random_range(0..chaos_ms);
            let short = rng.random_range(1_000..30_000);
            let long = rng.random_range(1_000..self.expiry * 2);
            let slot = rng.random_range(0..self.slots);
            let partition = rng.random_range(0..self.partitions);
            match rng.random_range(0..16) {
                // One after the other, or most of them at once.
                0 | 1 => {
                    let pause = rng.random_range(1_000..=10_000);
                    let faults_of = (0..self.slots).map(|slot| Fault {
                        at: (at + slot as Time * pause).min(chaos_ms),
                        lasts: pause / 2,
                        kind: FaultKind::Restart { slot },
                    });
                    faults.extend(faults_of);
                    continue;
                }
                2 => {
                    let survivors = rng.random_range(0..self.slots);
                    let faults_of = (survivors..self.slots).map(|slot| Fault {
                        at,
                        lasts: long.min(chaos_ms - at),
                        kind: FaultKind::Crash { slot },
                    });
                    faults.extend(faults_of);
                    continue;
                }
                number => {
                    let (kind, lasts) = match number {
                        3 | 4 => (FaultKind::LinkSilence { slot }, long),
                        5 => (FaultKind::AttachHangs, short),
                        6 => {
                            use TransportErrorKind as Kind;
                            let kinds = [
                                Kind::ServerBusy,
                                Kind::Unauthorized,
                                Kind::NotFound,
                                Kind::QuotaExceeded,
                                Kind::Disabled,
                                Kind::OwnershipLost,
                                Kind::Timeout,
                            ];
                            let kind = *kinds.choose(rng).unwrap_or(&Kind::ServerBusy);
                            (FaultKind::AttachRefused { kind }, short)
                        }
                        7 => (FaultKind::Outsider { partition }, short),
                        8 => (FaultKind::OwnershipDeleted { partition }, 0),
                        9 => (FaultKind::CheckpointDeleted { partition }, 0),
                        10 => (FaultKind::HandlerHangs { rate: 30 }, long),
                        11 => (FaultKind::ManagementDown, long),
                        12 => (FaultKind::ManagementShort, long),
                        13 => (FaultKind::Repeats { rate: 300 }, long),
                        14 => (FaultKind::Touched { partition }, long),
                        _ if rng.random_range(0..2) == 0 => {
                            let ms = self.interval / 2;
                            (FaultKind::StaleListings { ms }, long)
                        }
                        _ => {
                            let kind = FaultKind::StoreLossy {
                                failed: 0,
                                lost_requests: 0,
                                lost_replies: 0,
                                late: 0,
                                repeated: 200,
                            };
                            (kind, long)
                        }
                    };
                    let lasts = lasts.min(chaos_ms - at);
                    faults.push(Fault { at, lasts, kind });
                }
            }
        }
        faults
    }

    /// Once in a while everything that makes a processor doubt what it owns comes together: its link is silent, the
    /// store is down, and calls that have piled up events end just when the link proves nothing any more.
    fn cut_off(&self, rng: &mut impl Rng, chaos_ms: Time) -> Vec<Fault> {
        const BUSY: Time = 20_000;
        const SILENT: Time = 70_000;
        if chaos_ms < BUSY + SILENT || rng.random_range(0..30) > 0 {
            return Vec::new();
        }
        let at = rng.random_range(0..=chaos_ms - BUSY - SILENT);
        let slot = rng.random_range(0..self.slots);
        let hang = rng.random_range(61_000..66_000);
        [
            (0, BUSY, FaultKind::HandlerSlow { ms: 15_000 }),
            (
                BUSY - 2_000,
                2_000 + hang,
                FaultKind::HandlerHangs { rate: 500 },
            ),
            (BUSY, SILENT, FaultKind::LinkSilence { slot }),
            (BUSY, SILENT, FaultKind::StoreDown),
        ]
        .map(|(after, lasts, kind)| Fault {
            at: at + after,
            lasts,
            kind,
        })
        .into()
    }
}
