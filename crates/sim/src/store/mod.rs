//! A simulated blob store: names, versions and dates of blob storage behind latencies and faults.

mod blobs;
mod client;
mod weather;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

pub(crate) use blobs::{CheckpointBlob, Header, Operation, OwnershipBlob, Refusal};
pub(crate) use client::StoreClient;
pub(crate) use weather::{LATEST, Weather};

use self::weather::Fate;

use self::blobs::Blobs;
use crate::history::{Happening, Member, Partition, Time};
use crate::world::World;

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimStore {
    world: World,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    blobs: Blobs,
    latency: StdRng,
    chance: StdRng,
    weather: Weather,
    weather_of: BTreeMap<Member, Weather>,
    counts: Counts,
}

/// Operations that reached the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Put Blob and Set Blob Metadata.
    pub(crate) writes: u64,
    /// List Blobs.
    pub(crate) lists: u64,
    /// Get Blob Properties.
    pub(crate) reads: u64,
}

impl Counts {
    /// Writes and lists, which are billed alike.
    pub(crate) fn billed(self) -> u64 {
        self.writes + self.lists
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Not applied, and the client knows.
    Failed,
    /// Nobody knows.
    Unanswered,
}

/// All ownership records and the store's date.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) date: u64,
    pub(crate) records: Vec<(Partition, OwnershipBlob)>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write,
    List,
    Read,
}

/// Clients give up after this long, as our blob store does on each try.
const DEADLINE: Time = 5_000;

impl SimStore {
    pub(crate) fn new(world: World) -> Self {
        let state = State {
            blobs: Blobs::default(),
            latency: world.seed().stream("store latency", 0),
            chance: world.seed().stream("store faults", 0),
            weather: Weather::default(),
            weather_of: BTreeMap::new(),
            counts: Counts::default(),
        };
        Self {
            world,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub(crate) fn set_weather_of(&self, member: Member, weather: Weather) {
        self.lock().weather_of.insert(member, weather);
    }

    pub(crate) fn clear_weather(&self) {
        let mut state = self.lock();
        state.weather = Weather::default();
        state.weather_of.clear();
    }

    /// The checkpoints now, without asking over the wire.
    pub(crate) fn checkpoints_now(&self) -> BTreeMap<Partition, i64> {
        let state = self.lock();
        let checkpoints = state.blobs.checkpoints.iter();
        checkpoints.map(|(id, blob)| (*id, blob.seq)).collect()
    }

    pub(crate) async fn list_ownership(&self, member: Member) -> Result<Listing, Trouble> {
        self.exchange(member, Kind::List, |store| {
            let state = store.lock();
            Listing {
                date: store.world.server_secs(),
                records: state
                    .blobs
                    .ownerships
                    .iter()
                    .map(|(id, blob)| (*id, blob.clone()))
                    .collect(),
            }
        })
        .await
    }

    /// Put Blob or Set Blob Metadata on an ownership record.
    pub(crate) async fn write_owner(
        &self,
        member: Member,
        operation: Operation,
        partition: Partition,
        owner: Option<Arc<str>>,
        header: Header,
    ) -> Result<Result<OwnershipBlob, Refusal>, Trouble> {
        self.exchange(member, Kind::Write, move |store| {
            store.apply_owner(member, operation, partition, owner.as_ref(), header)
        })
        .await
    }

    /// Put Blob or Set Blob Metadata on a checkpoint record.
    pub(crate) async fn write_checkpoint(
        &self,
        member: Member,
        operation: Operation,
        partition: Partition,
        seq: i64,
        header: Header,
    ) -> Result<Result<u64, Refusal>, Trouble> {
        self.exchange(member, Kind::Write, move |store| {
            let before;
            let result = {
                let mut state = store.lock();
                before = state.blobs.checkpoints.get(&partition).map(|blob| blob.seq);
                state
                    .blobs
                    .write_checkpoint(operation, partition, seq, header)
            };
            if result.is_ok() {
                store.world.note(Happening::CheckpointApplied {
                    member,
                    partition,
                    before,
                    seq,
                });
            }
            result
        })
        .await
    }

    pub(crate) async fn list_checkpoints(
        &self,
        member: Member,
    ) -> Result<BTreeMap<Partition, CheckpointBlob>, Trouble> {
        self.exchange(member, Kind::List, |store| {
            store.lock().blobs.checkpoints.clone()
        })
        .await
    }

    pub(crate) async fn read_checkpoint(
        &self,
        member: Member,
        partition: Partition,
    ) -> Result<Option<CheckpointBlob>, Trouble> {
        self.exchange(member, Kind::Read, move |store| {
            store.lock().blobs.checkpoints.get(&partition).cloned()
        })
        .await
    }

    fn apply_owner(
        &self,
        by: Member,
        operation: Operation,
        partition: Partition,
        owner: Option<&Arc<str>>,
        header: Header,
    ) -> Result<OwnershipBlob, Refusal> {
        let now = self.world.server_secs();
        let (before, result) = {
            let mut state = self.lock();
            let before = state.blobs.ownerships.get(&partition).cloned();
            let result = state
                .blobs
                .write_owner(operation, partition, owner.cloned(), header, now);
            (before, result)
        };
        if result.is_ok() {
            let member = |owner: Option<&Arc<str>>| owner.and_then(|id| self.world.member_of(id));
            let from = member(before.as_ref().and_then(|blob| blob.owner.as_ref()));
            let to = member(owner);
            // A renewal, or the same owner under another id.
            if from != to {
                self.world.note(Happening::OwnerChanged {
                    by,
                    partition,
                    from,
                    to,
                });
            }
        }
        result
    }

    /// One request: half of the latency there, half of it back, and whatever the weather does to it.
    async fn exchange<T: Send + 'static>(
        &self,
        member: Member,
        kind: Kind,
        apply: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let (fate, latency) = {
            let mut state = self.lock();
            let weather = state.weather_of.get(&member).copied().unwrap_or_default();
            let weather = weather.and(state.weather);
            let fate = weather.fate(&mut state.chance);
            (
                fate,
                state.latency(kind).saturating_mul(weather.slow.into()),
            )
        };
        let there = latency / 2;
        match fate {
            Fate::Delivered if latency <= DEADLINE => {
                pause(there).await;
                self.lock().count(kind);
                let answer = apply(self);
                pause(latency - there).await;
                Ok(answer)
            }
            Fate::Failed => {
                pause(latency).await;
                Err(Trouble::Failed)
            }
            Fate::LostRequest => {
                pause(DEADLINE).await;
                Err(Trouble::Unanswered)
            }
            Fate::LostReply | Fate::Late(_) | Fate::Delivered => {
                let after = if let Fate::Late(after) = fate {
                    after
                } else {
                    there
                };
                let store = self.clone();
                // On its way: neither a crash of its sender nor his impatience stops it.
                tokio::spawn(async move {
                    pause(after).await;
                    store.lock().count(kind);
                    apply(&store);
                });
                pause(DEADLINE).await;
                Err(Trouble::Unanswered)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Milliseconds, one region: writes and reads 6-14, lists 10-20 and 20 µs a record.
    fn latency(&mut self, kind: Kind) -> Time {
        match kind {
            Kind::Write | Kind::Read => self.latency.random_range(6..=14),
            Kind::List => {
                let records = u64::try_from(self.blobs.ownerships.len()).unwrap_or(u64::MAX);
                self.latency.random_range(10..=20) + records / 50
            }
        }
    }

    fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Write => self.counts.writes += 1,
            Kind::List => self.counts.lists += 1,
            Kind::Read => self.counts.reads += 1,
        }
    }
}

async fn pause(milliseconds: Time) {
    sleep(Duration::from_millis(milliseconds)).await;
}
