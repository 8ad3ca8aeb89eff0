//! What can go wrong, and what is to be believed meanwhile.

use std::fmt;

use eventhubs_processor::error::TransportErrorKind;

use crate::history::Time;
use crate::marks::Mark;
use crate::store::Weather;

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
