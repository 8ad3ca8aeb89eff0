//! A simulated blob store: names, versions and dates of blob storage behind latencies and faults.

mod blobs;
mod client;
mod purpose;
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
pub(crate) use self::purpose::Purpose;
use self::purpose::{Applied, Outcome};
use crate::history::{Happening, Member, OPERATOR, Partition, Time};
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
    /// What each ownership write replaced, for listings that show the past.
    replaced: Vec<(Time, Partition, Option<OwnershipBlob>)>,
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
    /// Whether it shows what is, and not what was.
    pub(crate) is_current: bool,
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
pub(crate) const DEADLINE: Time = 5_000;

impl SimStore {
    pub(crate) fn new(world: World) -> Self {
        let state = State {
            blobs: Blobs::default(),
            replaced: Vec::new(),
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

    pub(crate) async fn list_ownership(
        &self,
        member: Member,
        purpose: Purpose,
    ) -> Result<Listing, Trouble> {
        self.exchange(member, purpose, None, Kind::List, move |store| {
            let (records, is_current) = store.records(purpose);
            Listing {
                is_current,
                date: store.world.server_secs(),
                records,
            }
        })
        .await
    }

    /// All records, or how they were a short while ago; and whether they are still so.
    fn records(&self, purpose: Purpose) -> (Vec<(Partition, OwnershipBlob)>, bool) {
        let now = self.world.now();
        let mut state = self.lock();
        let mut records = state.blobs.ownerships.clone();
        let mut is_current = true;
        let most = state.weather.stale_ms;
        if most > 0 {
            let since = now.saturating_sub(state.chance.random_range(0..=most));
            let before = records.clone();
            let later = state.replaced.iter().rev();
            for (_, partition, blob) in later.take_while(|(at, ..)| *at > since) {
                match blob {
                    Some(blob) => records.insert(*partition, blob.clone()),
                    None => records.remove(partition),
                };
            }
            is_current = records == before;
            if !is_current {
                drop(state);
                purpose.mark(&self.world, Outcome::Stale);
            }
        }
        (records.into_iter().collect(), is_current)
    }

    /// Takes an ownership record away, as an operator may.
    pub(crate) fn delete_owner(&self, partition: Partition) {
        let now = self.world.now();
        let before = {
            let mut state = self.lock();
            let before = state.blobs.ownerships.remove(&partition);
            state.replaced.push((now, partition, before.clone()));
            before
        };
        let owner = before.and_then(|blob| blob.owner);
        self.world.note(Happening::OwnerChanged {
            by: OPERATOR,
            partition,
            from: owner.and_then(|id| self.world.member_of(&id)),
            to: None,
        });
    }

    /// Writes the owner of a record once more, as an operator with a tool may.
    pub(crate) fn touch_owner(&self, partition: Partition) {
        let before = self.lock().blobs.ownerships.get(&partition).cloned();
        if let Some(blob) = before {
            let (owner, operation) = (blob.owner, Operation::SetMetadata);
            // Without a condition it cannot fail.
            let _ = self.apply_owner(OPERATOR, operation, partition, owner.as_ref(), Header::None);
        }
    }

    /// Takes a checkpoint away, as an operator may.
    pub(crate) fn delete_checkpoint(&self, partition: Partition) {
        self.lock().blobs.checkpoints.remove(&partition);
        self.world.note(Happening::CheckpointDeleted { partition });
    }

    /// Put Blob or Set Blob Metadata on an ownership record.
    pub(crate) async fn write_owner(
        &self,
        member: Member,
        purpose: Purpose,
        operation: Operation,
        partition: Partition,
        owner: Option<Arc<str>>,
        header: Header,
    ) -> Result<Result<OwnershipBlob, Refusal>, Trouble> {
        self.exchange(
            member,
            purpose,
            Some(partition),
            Kind::Write,
            move |store| store.apply_owner(member, operation, partition, owner.as_ref(), header),
        )
        .await
    }

    /// Put Blob or Set Blob Metadata on a checkpoint record.
    pub(crate) async fn write_checkpoint(
        &self,
        member: Member,
        purpose: Purpose,
        operation: Operation,
        partition: Partition,
        seq: i64,
        header: Header,
    ) -> Result<Result<u64, Refusal>, Trouble> {
        self.exchange(
            member,
            purpose,
            Some(partition),
            Kind::Write,
            move |store| {
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
            },
        )
        .await
    }

    pub(crate) async fn list_checkpoints(
        &self,
        member: Member,
        purpose: Purpose,
    ) -> Result<BTreeMap<Partition, CheckpointBlob>, Trouble> {
        self.exchange(member, purpose, None, Kind::List, |store| {
            store.lock().blobs.checkpoints.clone()
        })
        .await
    }

    pub(crate) async fn read_checkpoint(
        &self,
        member: Member,
        purpose: Purpose,
        partition: Partition,
    ) -> Result<Option<CheckpointBlob>, Trouble> {
        self.exchange(member, purpose, Some(partition), Kind::Read, move |store| {
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
        let (now, secs) = (self.world.now(), self.world.server_secs());
        let (before, result) = {
            let mut state = self.lock();
            let before = state.blobs.ownerships.get(&partition).cloned();
            let result =
                state
                    .blobs
                    .write_owner(operation, partition, owner.cloned(), header, secs);
            if result.is_ok() {
                state.replaced.push((now, partition, before.clone()));
            }
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
            } else {
                self.world.note(Happening::Renewed { by, partition });
            }
        }
        result
    }

    /// One request: half of the latency there, half of it back, and whatever the weather does to it.
    async fn exchange<T: Applied + Send + 'static>(
        &self,
        member: Member,
        purpose: Purpose,
        partition: Option<Partition>,
        kind: Kind,
        apply: impl Fn(&Self) -> T + Send + 'static,
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
        let result = match fate {
            Fate::Delivered | Fate::Repeated if latency <= DEADLINE => {
                pause(there).await;
                self.lock().count(kind);
                let mut answer = apply(self);
                if fate == Fate::Repeated {
                    // The client's own transport sent it again, and hears of the second time only.
                    purpose.mark(&self.world, Outcome::Repeated);
                    self.lock().count(kind);
                    answer = apply(self);
                }
                pause(latency - there).await;
                purpose.mark(&self.world, Outcome::answered(&answer));
                Ok(answer)
            }
            Fate::Failed => {
                pause(latency).await;
                purpose.mark(&self.world, Outcome::Failed);
                Err(Trouble::Failed)
            }
            Fate::LostRequest => {
                purpose.mark(&self.world, Outcome::Vanished);
                pause(DEADLINE).await;
                Err(Trouble::Unanswered)
            }
            Fate::LostReply | Fate::Late(_) | Fate::Delivered | Fate::Repeated => {
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
                    let is_applied = apply(&store).is_applied();
                    let is_late = matches!(fate, Fate::Late(_));
                    let outcome = Outcome::Unseen {
                        is_late,
                        is_applied,
                    };
                    purpose.mark(&store.world, outcome);
                });
                if !matches!(fate, Fate::LostReply | Fate::Late(_)) {
                    purpose.mark(&self.world, Outcome::TooSlow);
                }
                pause(DEADLINE).await;
                Err(Trouble::Unanswered)
            }
        };
        if purpose != Purpose::Foreign {
            self.world.note(Happening::Asked {
                member,
                partition,
                purpose,
                is_answered: result.is_ok(),
                is_refused: result.as_ref().is_ok_and(|answer| !answer.is_applied()),
            });
        }
        result
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
