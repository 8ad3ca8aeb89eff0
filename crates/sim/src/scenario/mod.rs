//! How fast and how calmly a group finds its balance: ours next to models of the other SDKs.
//!
//! The assumptions are those under which the other SDKs' published figures were made: writes take 6-14 ms, listings
//! 10-20 ms and 20 µs a record, a receiver attaches in 150 ms, a steal displaces at once, nobody retries, and an SDK
//! whose loop ends by an error is started again after 10 s.

mod figures;
mod group;
mod replay;
mod run;
mod table;

use std::fmt;

use eventhubs_processor::ProcessorOptions;

pub(crate) use replay::Replay;
pub use run::run;
pub use table::{TableRequest, print};

use crate::peers::PeerKind;
use crate::seed::Seed;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Scenario {
    /// One processor starts on a hub that nobody ever read.
    Cold1,
    /// Ten start within two seconds.
    Cold10,
    /// Nine join one within five seconds, under load.
    ScaleUp,
    /// Nine of ten leave, one every ten seconds, under load.
    ScaleDown,
    /// Three of ten crash at once.
    Crash,
    /// Ten are restarted under load, one a minute, each down for ten seconds.
    Rolling,
    /// Ten that have found their balance, for ten minutes.
    Steady,
    /// The same with the economy profile.
    Economy,
    /// The clock of one of ten is 75 s ahead, for thirty minutes.
    Skew75,
    /// The clock of one of ten is 200 s ahead, for thirty minutes.
    Skew200,
    /// The store becomes eighty times slower for fifteen minutes.
    Slow,
    /// The store is down for three minutes.
    Down,
    /// One of each SDK and four of ours, for an hour.
    Mixed,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Cold1,
        Self::Cold10,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::Crash,
        Self::Rolling,
        Self::Steady,
        Self::Economy,
        Self::Skew75,
        Self::Skew200,
        Self::Slow,
        Self::Down,
        Self::Mixed,
    ];

    /// Whether it is about us alone.
    pub(crate) fn is_ours_only(self) -> bool {
        matches!(self, Self::Economy | Self::Mixed)
    }

    /// The figures it is about.
    #[must_use]
    pub fn metrics(self) -> &'static [Metric] {
        use Metric::{
            Balanced, Changes, Duplicates, Full, Gap, Moves, Ops, PartitionSeconds, Spread,
        };
        match self {
            Self::Cold1 => &[Full, Ops],
            Self::Cold10 => &[Full, Balanced, Moves],
            Self::ScaleUp => &[Balanced, Moves, Gap, Duplicates],
            Self::ScaleDown => &[Gap, Changes, Duplicates],
            Self::Crash => &[Gap, PartitionSeconds, Balanced],
            Self::Rolling => &[Gap, PartitionSeconds, Changes, Balanced, Duplicates],
            Self::Steady | Self::Economy => &[Ops, Moves],
            Self::Skew75 | Self::Skew200 => &[Moves, Gap, Ops],
            Self::Slow | Self::Down => &[Moves, Gap, Spread],
            Self::Mixed => &[Full, Balanced, Moves, Spread],
        }
    }
}

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Seconds until every partition was read.
    Full,
    /// Seconds until the loads were equal and stayed so.
    Balanced,
    /// Partitions taken from live owners.
    Moves,
    /// All changes to another owner.
    Changes,
    /// Handler calls for events that a handler had been called for before, if every event is checkpointed.
    Duplicates,
    /// Longest time that nobody read a partition, in seconds.
    Gap,
    /// The same, summed over partitions.
    PartitionSeconds,
    /// Writes and listings a minute; in the cold start: all of them.
    Ops,
    /// Most minus fewest partitions of an owner at the end.
    Spread,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "all partitions read, s",
            Self::Balanced => "balanced, s",
            Self::Moves => "moves from live owners",
            Self::Changes => "owner changes",
            Self::Duplicates => "duplicate handler calls",
            Self::Gap => "longest gap, s",
            Self::PartitionSeconds => "partition-seconds unread",
            Self::Ops => "storage operations",
            Self::Spread => "spread at the end",
        })
    }
}

/// Whose processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// This crate's, as it ships.
    Ours,
    /// A model.
    Peer(PeerKind),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str("ours"),
            Self::Peer(kind) => write!(f, "{kind}"),
        }
    }
}

/// One run of one scenario.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is measured.
    pub scenario: Scenario,
    /// Whose processors.
    pub subject: Subject,
    /// How many partitions.
    pub partitions: u32,
    /// Where its chance comes from.
    pub seed: Seed,
    /// Options of our processors.
    pub options: ProcessorOptions,
}
