//! What a thousand seeds must have reached: a fault that never strikes and a path that is never taken prove nothing.
//!
//! A mark comes from what the hub and the store saw, from the errors that the application was told, or from the
//! library's own log messages; the library knows nothing of marks.

use std::collections::BTreeMap;

macro_rules! marks {
    ($($name:ident: $text:literal,)+) => {
        /// Something that must happen in some run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the text says what it is")]
        pub enum Mark { $($name),+ }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What it is.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

marks! {
    // The faults of a plan.
    FaultAttachHangs: "fault: attaches are not answered",
    FaultAttachRefused: "fault: attaches are refused for a stated reason",
    FaultCheckpointDeleted: "fault: an operator deletes a checkpoint",
    FaultCrash: "fault: a processor crashes",
    FaultFailedAttaches: "fault: attaches fail now and then",
    FaultGrow: "fault: the hub gets more partitions",
    FaultHandlerErrors: "fault: handlers fail",
    FaultHandlerHangs: "fault: handlers do not return",
    FaultHandlerPanics: "fault: handlers panic",
    FaultHandlerSlow: "fault: handlers are slow",
    FaultJoin: "fault: a processor joins and leaves",
    FaultLinkDrop: "fault: the links of a partition break",
    FaultLinkDropAll: "fault: the links of a processor break",
    FaultLinkSilence: "fault: the links of a processor go silent",
    FaultManagementDown: "fault: the hub does not tell its partitions",
    FaultManagementShort: "fault: the hub tells too few partitions",
    FaultOutsider: "fault: an outsider reads at a higher level",
    FaultOwnershipDeleted: "fault: an operator deletes an ownership record",
    FaultPause: "fault: a processor is not scheduled",
    FaultPeerCrash: "fault: a foreign processor crashes",
    FaultPeerRestart: "fault: a foreign processor stops and comes back",
    FaultRepeats: "fault: the hub sends events twice",
    FaultRestart: "fault: a processor stops and comes back",
    FaultStaleListings: "fault: listings are old",
    FaultStoreDown: "fault: the store is down",
    FaultStoreDownFor: "fault: the store is down for one",
    FaultStoreLossy: "fault: requests and replies get lost",
    FaultStoreSlow: "fault: the store is slow",
    FaultTouched: "fault: an operator writes an owner's name again",

    // Requests to the store, with what became of them.
    ClaimLost: "a claim lost the race",
    RenewalLost: "a renewal found the record changed",
    GivingBackLost: "a partition to be given back had been claimed",
    CheckpointLost: "a checkpoint found the record changed",
    ClaimLandedUnseen: "a claim took effect and nobody knew",
    ClaimVanished: "a claim vanished and nobody knew",
    RenewalLandedUnseen: "a renewal took effect and nobody knew",
    RenewalVanished: "a renewal vanished and nobody knew",
    CheckpointLandedUnseen: "a checkpoint took effect and nobody knew",
    CheckpointVanished: "a checkpoint vanished and nobody knew",
    LateClaimRefused: "an ownership write arrived late and was refused",
    LateClaimApplied: "an ownership write arrived late and took effect",
    LateCheckpointRefused: "a checkpoint arrived late and was refused",
    LateCheckpointApplied: "a checkpoint arrived late and took effect",
    RepeatedRequest: "a request arrived twice",
    StaleListing: "a listing showed the past",
    ListFailed: "a listing failed",
    ClaimFailed: "an ownership write failed",
    CheckpointFailed: "a checkpoint failed",
    CheckpointReadFailed: "reading a checkpoint failed",
    RecordCreated: "an ownership record was created",
    RecordVanished: "a record to be written had vanished",
    RequestTooSlow: "an answer came too late to be waited for",

    // Ownership.
    ClaimedReleased: "a partition that had been given back was claimed",
    ClaimedFromDeadKin: "a dead owner's partition was claimed",
    ClaimedFromDeadPeer: "a dead foreign owner's partition was claimed",
    StolenFromKin: "a partition was stolen from one of ours",
    StolenFromPeer: "a partition was stolen from a foreign owner",
    StolenByPeer: "a partition of ours was stolen by a foreign processor",
    StolenFromPaused: "a partition was taken from a processor that was not scheduled",
    StolenWhileHandlerRan: "a partition was taken while its handler ran",
    MarkedLeaving: "a processor that leaves marked its partitions",
    HeirClaimed: "an heir claimed a partition of one that leaves",
    HeirTold: "an heir was told to begin",
    HeirWaitedOut: "an heir began without having been told",
    GivenBack: "a partition was given back",
    OutsiderDisplacedUs: "an outsider displaced the owner",
    WokeUpDisplaced: "a processor woke up after its partition had been taken",

    // Terms.
    AttachAgainInTerm: "a term went on with another receiver",
    TermAfterFailure: "a failed term was followed by another in the same processor",
    Repeated: "an event was processed again",
    CheckpointMovedBackByPeer: "a foreign processor moved a checkpoint back",
    CheckpointHealed: "a checkpoint that had been moved back was overtaken by ours",
    NewPartitionRead: "a partition that had been added was read",
    RepeatDropped: "an event that came twice was dropped",

    // Ends.
    StopWhileHandlerRan: "a stop found a handler running",
    StopWhileClaiming: "a stop found an ownership write under way",
    StopWhileStoreDown: "a stop found the store down",
    StopCutHandler: "a handler was cut at the end of a stop",
    StopLeftOwnership: "a stop could not give everything back",
    CrashWhileHandlerRan: "a crash found a handler running",
    CrashWhileClaiming: "a crash found an ownership write under way",
    PausedWhileHandlerRan: "a pause found a handler running",

    // What the application was told.
    ToldLoadBalancing: "on_error: load balancing",
    ToldUnproven: "on_error: ownership is not proven",
    ProvenAgain: "ownership was proven again",
    ToldTwin: "on_error: another processor uses the owner id",
    ToldEventHub: "on_error: the hub's partitions were not read",
    ToldReadCheckpoint: "on_error: a checkpoint was not read",
    ToldCheckpoint: "on_error: a checkpoint by policy was not written",
    ToldReceive: "on_error: receiving failed",
    ToldHandlerFailed: "on_error: a handler failed",
    ToldHandlerPanicked: "on_error: a handler panicked",
    CheckpointRefusedAtEnd: "a checkpoint after the end of a term was refused",
    CheckpointRefusedAhead: "a checkpoint of an event not delivered was refused",
    CheckpointRefusedUnproven: "a checkpoint without proof of ownership was refused",
    CheckpointUnknown: "the application learnt that a checkpoint's outcome is unknown",
    CheckpointStoreError: "the application learnt that a checkpoint was not written",
}

/// How often each was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    counts: BTreeMap<Mark, u64>,
}

impl Marks {
    pub(crate) fn reach(&mut self, mark: Mark) {
        *self.counts.entry(mark).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.counts {
            *self.counts.entry(*mark).or_default() += count;
        }
    }

    /// How often a mark was reached.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts.get(&mark).copied().unwrap_or(0)
    }

    /// Those that were not.
    #[must_use]
    pub fn missing(&self) -> Vec<Mark> {
        let all = Mark::ALL.iter().copied();
        all.filter(|mark| self.count(*mark) == 0).collect()
    }
}
