//! What everything in a run shares: the clock, the history, the names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::history::{Happening, History, Member, Partition, Time};
use crate::marks::{Mark, Marks};
use crate::seed::Seed;

/// One run. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct World {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    seed: Seed,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    /// By name, which is the owner id or a part of it.
    members: BTreeMap<String, Member>,
    /// Until when somebody may know of too few partitions.
    is_partial_until: Time,
    marks: Marks,
}

/// When the run starts, by the store's clock.
const EPOCH_SECS: u64 = 1_800_000_000;

impl World {
    /// Must be made inside a tokio runtime with a paused clock.
    pub(crate) fn new(seed: Seed) -> Self {
        let inner = Inner {
            seed,
            started: Instant::now(),
            state: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn seed(&self) -> Seed {
        self.inner.seed
    }

    pub(crate) fn now(&self) -> Time {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(Time::MAX)
    }

    /// The store's clock, in whole seconds: blob storage tells no more.
    pub(crate) fn server_secs(&self) -> u64 {
        EPOCH_SECS + self.now() / 1000
    }

    pub(crate) fn note(&self, happening: Happening) {
        let now = self.now();
        self.state().history.note(now, happening);
    }

    /// Notes that until `time` somebody may know of too few partitions.
    pub(crate) fn set_partial_until(&self, time: Time) {
        self.state().is_partial_until = time;
    }

    /// The same, unless it is so for longer.
    pub(crate) fn extend_partial_until(&self, time: Time) {
        let mut state = self.state();
        state.is_partial_until = state.is_partial_until.max(time);
    }

    /// Whether everybody who plans knows all partitions.
    pub(crate) fn is_complete(&self) -> bool {
        self.now() >= self.state().is_partial_until
    }

    /// Notes that something rare was reached.
    pub(crate) fn reach(&self, mark: Mark) {
        self.state().marks.reach(mark);
    }

    pub(crate) fn marks(&self) -> Marks {
        self.state().marks.clone()
    }

    /// Enters a new life of a processor under a name that will be its owner id or a part of it.
    pub(crate) fn enter(&self, name: &str) -> Member {
        let mut state = self.state();
        let member = Member(u32::try_from(state.members.len()).unwrap_or(u32::MAX));
        state.members.insert(name.to_owned(), member);
        member
    }

    pub(crate) fn member_of(&self, owner_id: &str) -> Option<Member> {
        let members = &self.state().members;
        members.get(owner_id).copied().or_else(|| {
            let named = |(name, _): &(&String, _)| owner_id.contains(name.as_str());
            members.iter().find(named).map(|(_, member)| *member)
        })
    }

    /// Reads the history so far.
    pub(crate) fn with_history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.state().history)
    }

    pub(crate) fn take_history(&self) -> History {
        std::mem::take(&mut self.state().history)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds of the store's clock as a time.
pub(crate) fn system_time(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// A partition's id as a number.
pub(crate) fn partition_number(id: &str) -> Option<Partition> {
    id.parse().ok()
}
