//! What happened, as the hub and the store saw it: the oracle believes nobody else.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::store::Purpose;

/// Milliseconds of virtual time since the start.
pub(crate) type Time = u64;

/// A partition, by number; its id is the number as text.
pub(crate) type Partition = u32;

/// One life of one processor. A restarted processor is another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Member(pub(crate) u32);

/// Whoever has access to the store and to the hub and is no processor.
pub(crate) const OPERATOR: Member = Member(u32::MAX);

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// One stay of a partition in a member, from the initialize hook to the close hook.
pub(crate) type TermId = u32;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    /// An event was enqueued.
    Appended { partition: Partition, seq: i64 },
    /// A member that is not scheduled any more had asked for a receiver; the request leaves it only now.
    AttachHeldUp {
        member: Member,
        partition: Partition,
        /// When it was asked for.
        asked: Time,
    },
    /// The hub accepted a receiver that starts after sequence number `after`.
    Attached {
        member: Member,
        partition: Partition,
        link: u64,
        after: i64,
    },
    /// A receiver is gone, for whatever reason.
    Detached {
        member: Member,
        partition: Partition,
        link: u64,
    },
    /// A member read a checkpoint.
    CheckpointRead {
        member: Member,
        partition: Partition,
        seq: Option<i64>,
    },
    /// The store applied a checkpoint.
    CheckpointApplied {
        member: Member,
        partition: Partition,
        before: Option<i64>,
        seq: i64,
    },
    /// The store applied an ownership write that changed the owner.
    OwnerChanged {
        by: Member,
        partition: Partition,
        from: Option<Member>,
        to: Option<Member>,
    },
    /// The application was told that a checkpoint is stored.
    CheckpointAcked {
        member: Member,
        partition: Partition,
        seq: i64,
    },
    /// An operator deleted a checkpoint.
    CheckpointDeleted { partition: Partition },
    /// The store applied an ownership write that left the owner the same.
    Renewed { by: Member, partition: Partition },
    /// A request to the store about one partition, or a listing, as its sender saw it.
    Asked {
        member: Member,
        partition: Option<Partition>,
        purpose: Purpose,
        is_answered: bool,
        /// Answered, but in vain.
        is_refused: bool,
    },
    /// The hub refused a receiver.
    AttachFailed {
        member: Member,
        partition: Partition,
    },
    /// A processor of ours took events off its receiver.
    Taken {
        member: Member,
        partition: Partition,
        events: u32,
        bytes: u32,
    },
    /// A member planned something that its own view of the group forbids.
    Misjudged {
        member: Member,
        partition: Partition,
        why: &'static str,
    },
    /// A term began.
    TermStarted {
        member: Member,
        partition: Partition,
        term: TermId,
    },
    /// A term ended; the flag tells whether by a graceful stop.
    TermEnded {
        member: Member,
        partition: Partition,
        term: TermId,
        by_shutdown: bool,
    },
    /// The handler was called, or goes on with the next event of the batch it was called with.
    HandlerStarted {
        member: Member,
        partition: Partition,
        term: TermId,
        seq: i64,
        is_same_call: bool,
    },
    /// The handler has done its work on an event; a checkpoint may follow.
    HandlerDone {
        member: Member,
        partition: Partition,
        term: TermId,
        seq: i64,
    },
    /// The handler failed on an event.
    HandlerFailed {
        member: Member,
        partition: Partition,
        term: TermId,
        seq: i64,
    },
    /// The content of an event was not what had been sent.
    Corrupted { partition: Partition, seq: i64 },
    /// The library accepted what it must refuse.
    Accepted {
        member: Member,
        partition: Partition,
        what: &'static str,
    },
    /// A processor started.
    Up { member: Member, is_ours: bool },
    /// A processor was asked to stop.
    Stopping { member: Member },
    /// A processor is gone: crashed, or at the end of its stop.
    Down { member: Member, by_crash: bool },
    /// A processor is no longer scheduled.
    Paused { member: Member },
    /// It is again.
    Resumed { member: Member },
    /// The way to the store, or the hub, gets better or worse for somebody.
    Weather { is_fair: bool, is_hub_fair: bool },
    /// A member hears nothing from the hub any more, or hears again.
    Silent { member: Member, is_silent: bool },
    /// A fault begins or ends.
    Fault { what: String },
    /// A phase of the run begins.
    Phase { name: &'static str },
}

/// Everything that happened, in order, with a hash over it.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: Vec<(Time, Happening)>,
    hasher: DefaultHasher,
}

impl History {
    pub(crate) fn note(&mut self, now: Time, happening: Happening) {
        (now, &happening).hash(&mut self.hasher);
        self.records.push((now, happening));
    }

    /// The records, oldest first.
    pub(crate) fn records(&self) -> &[(Time, Happening)] {
        &self.records
    }

    /// Equal for equal histories.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
