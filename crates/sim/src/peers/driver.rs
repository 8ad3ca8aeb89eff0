//! The loop of a foreign processor: whom it asks in which order, and what an error does to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::pump::{PeerWork, Pump, PumpSetup};
use super::{PeerKind, Sdk, View, dotnet, go, java, js, python};
use crate::history::{Happening, Member, Partition};
use crate::hub::{MANAGEMENT, SimHub};
use crate::store::{
    CheckpointBlob, Header, Operation, OwnershipBlob, Purpose, Refusal, SimStore, Trouble,
};
use crate::terms::Terms;
use crate::world::World;

/// A processor of another SDK.
#[derive(Clone, Debug)]
pub(crate) struct PeerSetup {
    pub(crate) kind: PeerKind,
    /// Unlike that of every other processor of the run.
    pub(crate) name: String,
    /// How far its clock is ahead, in milliseconds.
    pub(crate) skew: Arc<AtomicI64>,
    pub(crate) work: PeerWork,
}

/// A foreign processor that runs. Dropping it without [`crash`](Self::crash) or [`stop`](Self::stop) only forgets it.
#[derive(Debug)]
pub(crate) struct PeerHandle {
    world: World,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Notify,
    member: Mutex<Option<Member>>,
}

impl Shared {
    fn member(&self) -> Option<Member> {
        *self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_member(&self, member: Option<Member>) {
        *self.member.lock().unwrap_or_else(PoisonError::into_inner) = member;
    }
}

/// How long the application takes to notice that `Run` has returned, and to start it again.
const RESTART: Duration = Duration::from_secs(10);

/// Starts a foreign processor.
pub(crate) fn spawn(
    world: &World,
    store: &SimStore,
    hub: &SimHub,
    terms: &Terms,
    setup: PeerSetup,
) -> PeerHandle {
    let shared = Arc::new(Shared::default());
    let supervised = supervise(
        world.clone(),
        store.clone(),
        hub.clone(),
        terms.clone(),
        setup,
        Arc::clone(&shared),
    );
    PeerHandle {
        world: world.clone(),
        task: tokio::spawn(supervised),
        shared,
    }
}

impl PeerHandle {
    /// Kills the process.
    pub(crate) fn crash(self) {
        self.task.abort();
        if let Some(member) = self.shared.member() {
            let by_crash = true;
            self.world.note(Happening::Down { member, by_crash });
        }
    }

    /// Stops as the SDK does.
    pub(crate) async fn stop(self) {
        self.shared.stop.notify_one();
        // Aborted is ended too.
        let _ = self.task.await;
    }
}

/// Runs one life after another: an SDK whose loop ends by an error is started again by its application.
async fn supervise(
    world: World,
    store: SimStore,
    hub: SimHub,
    terms: Terms,
    setup: PeerSetup,
    shared: Arc<Shared>,
) {
    for life in 0.. {
        let owner: Arc<str> = format!("{}-{life}", setup.name).into();
        let member = world.enter(&owner);
        world.note(Happening::Up {
            member,
            is_ours: false,
        });
        shared.set_member(Some(member));
        let rng = world.seed().stream(&owner, 0);
        let pumps = PumpSetup {
            world: world.clone(),
            store: store.clone(),
            hub: hub.clone(),
            terms: terms.clone(),
            member,
            work: setup.work,
        };
        let peer = Peer {
            kind: setup.kind,
            owner,
            skew: Arc::clone(&setup.skew),
            rng,
            pumps,
            held: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        let was_stopped = peer.run(&shared.stop).await;
        shared.set_member(None);
        world.note(Happening::Down {
            member,
            by_crash: !was_stopped,
        });
        if was_stopped {
            return;
        }
        tokio::select! {
            biased;
            () = shared.stop.notified() => return,
            () = sleep(RESTART) => {}
        }
    }
}

#[derive(Debug)]
struct Peer {
    kind: PeerKind,
    owner: Arc<str>,
    skew: Arc<AtomicI64>,
    rng: StdRng,
    pumps: PumpSetup,
    /// Versions of what we hold, as .NET remembers them; the others go by the listing.
    held: BTreeMap<Partition, u64>,
    running: BTreeMap<Partition, Pump>,
}

/// The loop cannot go on.
struct Fatal;

impl From<Trouble> for Fatal {
    fn from(_: Trouble) -> Self {
        Self
    }
}

type Checkpoints = BTreeMap<Partition, CheckpointBlob>;

impl Peer {
    /// Runs until stopped (`true`) or until an error ends the loop (`false`).
    async fn run(mut self, stop: &Notify) -> bool {
        if self.kind.sdk == Sdk::Java {
            sleep(Duration::from_millis(self.rng.random_range(0..2000))).await;
        }
        loop {
            let begun = tokio::time::Instant::now();
            let interval = self.kind.sdk.interval();
            let next = match self.kind.sdk {
                Sdk::DotNet => {
                    let wait = self.dotnet_cycle().await;
                    Ok(wait.saturating_sub(begun.elapsed()).max(DOTNET_MIN_WAIT))
                }
                Sdk::Java => Ok(self.java_cycle().await.saturating_sub(begun.elapsed())),
                Sdk::Python => {
                    // Not answered: holdings kept, next time.
                    let _ = self.python_cycle().await;
                    Ok(interval.mul_f64(self.rng.random_range(1.0..1.2)))
                }
                Sdk::Js => {
                    let _ = self.js_cycle().await;
                    Ok(interval)
                }
                Sdk::Go => match self.go_cycle().await {
                    Ok(()) => Ok(interval.mul_f64(self.rng.random_range(0.8..1.3))),
                    Err(fatal) => Err(fatal),
                },
                Sdk::Rust => self.go_cycle().await.map(|()| interval),
            };
            let Ok(wait) = next else {
                self.close().await;
                return false;
            };
            tokio::select! {
                biased;
                () = stop.notified() => {
                    self.close().await;
                    return true;
                }
                () = sleep(wait) => {}
            }
        }
    }

    async fn dotnet_cycle(&mut self) -> Duration {
        let interval = self.kind.sdk.interval();
        sleep(MANAGEMENT).await;
        for (partition, version) in self.held.clone() {
            match self.claim(partition, Header::IfMatch(version)).await {
                Ok(Some(blob)) => {
                    self.held.insert(partition, blob.version);
                }
                Ok(None) => {
                    self.held.remove(&partition);
                }
                Err(_) => return interval,
            }
        }
        self.running
            .retain(|partition, _| self.held.contains_key(partition));
        let Ok(view) = self.view().await else {
            return interval;
        };
        let (wanted, min) = dotnet::decide(&view, &self.owner, self.held.len(), &mut self.rng);
        if let Some(partition) = wanted
            && let Ok(Some(blob)) = self.claim(partition, view.header(partition)).await
        {
            self.held.insert(partition, blob.version);
        }
        for partition in self.idle(self.held.keys().copied().collect()) {
            if let Ok(found) = self
                .store()
                .read_checkpoint(self.member(), Purpose::Foreign, partition)
                .await
            {
                let start = self.pumps.start(partition, found.map(|blob| blob.seq));
                self.running.insert(partition, start);
            }
        }
        let is_balanced = self.held.len() >= min && wanted.is_none();
        if is_balanced || !self.kind.is_greedy {
            interval
        } else {
            Duration::ZERO
        }
    }

    async fn java_cycle(&mut self) -> Duration {
        let interval = self.kind.sdk.interval();
        let Ok(view) = self.view().await else {
            return interval;
        };
        self.running.retain(|_, pump| pump.is_alive());
        let wanted = java::decide(&view, &self.owner, &mut self.rng);
        let renewed = view.named(&self.owner).into_iter();
        let mut claims: Vec<_> = renewed
            .filter(|partition| self.running.contains_key(partition))
            .collect();
        claims.extend(wanted);
        let won = self.claim_together(&view, claims).await;
        let won: Vec<_> = won
            .into_iter()
            .filter_map(|(partition, result)| matches!(result, Ok(Some(_))).then_some(partition))
            .collect();
        // Not answered: started with the next claim of it, after it has expired.
        let _ = self.start_idle(won).await;
        if self.kind.is_greedy && wanted.is_some() {
            Duration::ZERO
        } else {
            interval
        }
    }

    async fn python_cycle(&mut self) -> Result<(), Trouble> {
        let view = self.view().await?;
        let wanted = python::decide(&view, &self.owner, self.kind.is_greedy, &mut self.rng);
        let mut claims = view.named(&self.owner);
        claims.extend(wanted);
        let results = self.claim_together(&view, claims).await;
        // An unexpected error counts as kept.
        let kept: Vec<_> = results
            .into_iter()
            .filter_map(|(partition, result)| (!matches!(result, Ok(None))).then_some(partition))
            .collect();
        self.running.retain(|partition, _| kept.contains(partition));
        self.start_idle(kept).await
    }

    async fn js_cycle(&mut self) -> Result<(), Trouble> {
        sleep(MANAGEMENT).await;
        let view = self.view().await?;
        self.running.retain(|_, pump| pump.is_alive());
        let renewed: Vec<_> = self.running.keys().copied().collect();
        let wanted = js::decide(&view, &self.owner, self.kind.is_greedy, &mut self.rng);
        for partition in wanted {
            if let Ok(Some(_)) = self.claim(partition, view.header(partition)).await {
                // A listing of all checkpoints for each start.
                let _ = self.start_idle(vec![partition]).await;
            }
        }
        for partition in renewed {
            // Lost or failed: the link tells.
            let _ = self.claim(partition, view.header(partition)).await;
        }
        Ok(())
    }

    /// Go and Rust.
    async fn go_cycle(&mut self) -> Result<(), Fatal> {
        let is_rust = self.kind.sdk == Sdk::Rust;
        let view = self.view().await?;
        let mut claims: Vec<_> = view
            .named(&self.owner)
            .into_iter()
            .filter(|partition| view.active_owner(*partition).is_some())
            .collect();
        let greedy = self.kind.is_greedy;
        claims.extend(go::decide(
            &view,
            &self.owner,
            greedy,
            is_rust,
            &mut self.rng,
        ));
        let mut won = Vec::new();
        for partition in claims {
            if self
                .claim(partition, view.header(partition))
                .await?
                .is_some()
            {
                won.push(partition);
            }
        }
        if is_rust {
            self.store()
                .list_checkpoints(self.member(), Purpose::Foreign)
                .await?;
        }
        self.start_idle(won).await?;
        Ok(())
    }

    /// Stops reading and gives back what the SDK gives back.
    async fn close(&mut self) {
        self.running.clear();
        if self.kind.sdk == Sdk::Rust {
            return;
        }
        let Ok(view) = self.view().await else { return };
        let mine = view.named(&self.owner);
        let release = |partition| {
            let header = view.header(partition);
            self.store().write_owner(
                self.member(),
                Purpose::Foreign,
                Operation::SetMetadata,
                partition,
                None,
                header,
            )
        };
        if matches!(self.kind.sdk, Sdk::Java | Sdk::Python) {
            join_all(mine.into_iter().map(release)).await;
        } else {
            for partition in mine {
                // Not given back expires.
                let _ = release(partition).await;
            }
        }
    }

    async fn view(&self) -> Result<View, Trouble> {
        let listing = self
            .store()
            .list_ownership(self.member(), Purpose::Foreign)
            .await?;
        let world = &self.pumps.world;
        let sub_second = i64::try_from(world.now() % 1000).unwrap_or(0);
        let server = i64::try_from(world.server_secs()).unwrap_or(i64::MAX) * 1000 + sub_second;
        let expiry = i64::try_from(self.kind.sdk.expiry().as_millis()).unwrap_or(i64::MAX);
        let partitions = self.pumps.hub.partitions();
        Ok(View::new(
            partitions,
            listing,
            server + self.skew.load(Ordering::Relaxed),
            expiry,
        ))
    }

    /// Those of `partitions` that are not being read.
    fn idle(&mut self, partitions: Vec<Partition>) -> Vec<Partition> {
        self.running.retain(|_, pump| pump.is_alive());
        partitions
            .into_iter()
            .filter(|partition| !self.running.contains_key(partition))
            .collect()
    }

    /// Lists the checkpoints if there is anything to start, and starts it.
    async fn start_idle(&mut self, partitions: Vec<Partition>) -> Result<(), Trouble> {
        let idle = self.idle(partitions);
        if idle.is_empty() {
            return Ok(());
        }
        let found: Checkpoints = self
            .store()
            .list_checkpoints(self.member(), Purpose::Foreign)
            .await?;
        for partition in idle {
            let checkpoint = found.get(&partition).map(|blob| blob.seq);
            let pump = self.pumps.start(partition, checkpoint);
            self.running.insert(partition, pump);
        }
        Ok(())
    }

    async fn claim_together(
        &self,
        view: &View,
        partitions: Vec<Partition>,
    ) -> Vec<(Partition, Result<Option<OwnershipBlob>, Trouble>)> {
        join_all(partitions.into_iter().map(async |partition| {
            (
                partition,
                self.claim(partition, view.header(partition)).await,
            )
        }))
        .await
    }

    /// `None`: lost the race.
    async fn claim(
        &self,
        partition: Partition,
        header: Header,
    ) -> Result<Option<OwnershipBlob>, Trouble> {
        let write = |operation, header| {
            let owner = Some(Arc::clone(&self.owner));
            self.store().write_owner(
                self.member(),
                Purpose::Foreign,
                operation,
                partition,
                owner,
                header,
            )
        };
        let put = Operation::PutBlob;
        let set = Operation::SetMetadata;
        let result = match (header, self.kind.sdk) {
            (Header::IfAbsent, Sdk::Python) => match write(set, header).await? {
                Err(Refusal::NotFound) => write(put, header).await?,
                result => result,
            },
            (Header::IfAbsent, Sdk::Js) => match write(set, Header::None).await? {
                Err(Refusal::NotFound) => write(put, Header::None).await?,
                result => result,
            },
            (Header::IfAbsent, _) => write(put, header).await?,
            _ => write(set, header).await?,
        };
        Ok(result.ok())
    }

    fn store(&self) -> &SimStore {
        &self.pumps.store
    }

    fn member(&self) -> Member {
        self.pumps.member
    }
}

/// .NET's shortest wait between two cycles.
const DOTNET_MIN_WAIT: Duration = Duration::from_millis(15);
