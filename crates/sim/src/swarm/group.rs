//! A group under faults: at any time its state follows from the faults that are active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use eventhubs_processor::error::TransportErrorKind;
use eventhubs_processor::{BuildError, EventPosition};
use rand::RngExt as _;
use tokio::task::{JoinHandle, JoinSet};

use super::fault::{Fault, FaultKind};
use super::plan::Plan;
use crate::bugs::Bug;
use crate::handler::{Behaviour, Settings};
use crate::history::{Happening, OPERATOR, Time};
use crate::hub::{HubTrouble, Managed, SimHub};
use crate::marks::Mark;
use crate::ours::{OurSetup, Ours};
use crate::peers::{self, PeerHandle, PeerSetup, PeerWork};
use crate::seed::Seed;
use crate::store::{SimStore, Weather};
use crate::terms::Terms;
use crate::world::World;

/// A place for one of our processors, life after life.
#[derive(Debug, Default)]
struct Slot {
    processor: Option<Ours>,
    lives: u32,
    is_paused: bool,
}

/// The group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) world: World,
    pub(crate) store: SimStore,
    pub(crate) hub: SimHub,
    pub(crate) behaviour: Behaviour,
    plan: Plan,
    setup: OurSetup,
    slots: Vec<Slot>,
    peers: Vec<Option<PeerHandle>>,
    peer_lives: u32,
    /// How far the foreign clocks are ahead.
    skews: Vec<Arc<AtomicI64>>,
    /// What outsiders hold.
    outside: BTreeMap<u32, JoinHandle<()>>,
    /// By number in the plan.
    active: BTreeMap<usize, Fault>,
    stopping: JoinSet<()>,
}

impl Group {
    pub(crate) fn new(seed: Seed, plan: &Plan, bug: Option<Bug>) -> Self {
        let world = World::new(seed);
        let store = SimStore::new(world.clone());
        let hub = SimHub::new(world.clone(), plan.partitions);
        let behaviour = Behaviour::new(Settings {
            min_ms: plan.handler_ms.0,
            max_ms: plan.handler_ms.1,
            errors: 0,
            panics: 0,
            hangs: 0,
            checkpoint_every: plan.checkpoint_every(),
            has_batches: plan.options.max_batch_size.is_some(),
            chance: seed.stream("handler", 0),
        });
        let mut options = plan.options.clone();
        options.default_starting_position = EventPosition::Earliest;
        let setup = OurSetup {
            world: world.clone(),
            store: store.clone(),
            hub: hub.clone(),
            terms: Terms::default(),
            options,
            behaviour: behaviour.clone(),
            bug,
        };
        // Room for those who join later.
        let joins = plan.faults.iter();
        let joins = joins.filter(|fault| fault.kind == FaultKind::Join).count();
        Self {
            world,
            store,
            hub,
            behaviour,
            slots: (0..plan.slots + joins).map(|_| Slot::default()).collect(),
            peers: plan.peers.iter().map(|_| None).collect(),
            peer_lives: 0,
            skews: plan
                .peers
                .iter()
                .map(|peer| Arc::new(AtomicI64::new(peer.skew_ms)))
                .collect(),
            outside: BTreeMap::new(),
            plan: plan.clone(),
            setup,
            active: BTreeMap::new(),
            stopping: JoinSet::new(),
        }
    }

    /// Starts everybody within two seconds.
    pub(crate) async fn start(&mut self) -> Result<(), BuildError> {
        let mut rng = self.world.seed().stream("starts", 0);
        for peer in 0..self.peers.len() {
            self.start_peer(peer);
            let wait = rng.random_range(0..500);
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        }
        for slot in 0..self.plan.slots {
            self.start_slot(slot)?;
            let wait = rng.random_range(0..500);
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        }
        Ok(())
    }

    pub(crate) fn begin_fault(&mut self, number: usize, fault: Fault) -> Result<(), BuildError> {
        self.note(format!("{number}: {:?}", fault.kind));
        self.world.reach(fault.kind.mark());
        match fault.kind {
            FaultKind::CheckpointDeleted { partition } => self.store.delete_checkpoint(partition),
            FaultKind::OwnershipDeleted { partition } => self.store.delete_owner(partition),
            FaultKind::Crash { slot } => {
                if let Some(ours) = self.slots[slot].processor.take() {
                    if ours.is_claiming() {
                        self.world.reach(Mark::CrashWhileClaiming);
                    }
                    ours.crash();
                }
            }
            FaultKind::Restart { slot } => self.stop_slot(slot),
            FaultKind::Grow { by } => self.hub.grow(by),
            FaultKind::LinkDrop { partition } => {
                self.hub
                    .disconnect(partition, TransportErrorKind::LinkDetached);
            }
            FaultKind::LinkDropAll { slot } => {
                if let Some(ours) = &self.slots[slot].processor {
                    let kind = TransportErrorKind::ConnectionLost;
                    self.hub.disconnect_member(ours.member, kind);
                }
            }
            FaultKind::PeerCrash { peer } => {
                if let Some(peer) = self.peers[peer].take() {
                    peer.crash();
                }
            }
            FaultKind::PeerRestart { peer } => {
                if let Some(peer) = self.peers[peer].take() {
                    self.stopping.spawn(peer.stop());
                }
            }
            _ => {}
        }
        self.active.insert(number, fault);
        self.apply()
    }

    pub(crate) fn end_fault(&mut self, number: usize) -> Result<(), BuildError> {
        if self.active.remove(&number).is_some() {
            self.note(format!("{number}: over"));
        }
        self.apply()
    }

    /// Does what goes on while a fault is active; called every second.
    pub(crate) fn tick(&self) {
        for fault in self.active.values() {
            if let FaultKind::Touched { partition } = fault.kind {
                self.store.touch_owner(partition);
            }
        }
    }

    /// Ends every fault and sets every clock right.
    pub(crate) fn heal(&mut self) -> Result<(), BuildError> {
        for skew in &self.skews {
            skew.store(0, Ordering::Relaxed);
        }
        self.active.clear();
        self.apply()
    }

    /// Whether somebody is still on the way out.
    pub(crate) fn is_stopping(&mut self) -> bool {
        while self.stopping.try_join_next().is_some() {}
        !self.stopping.is_empty()
    }

    /// Stops everybody gracefully.
    pub(crate) async fn stop(&mut self) {
        for slot in 0..self.slots.len() {
            self.stop_slot(slot);
        }
        for peer in &mut self.peers {
            if let Some(peer) = peer.take() {
                self.stopping.spawn(peer.stop());
            }
        }
        while self.stopping.join_next().await.is_some() {}
    }

    /// Makes everything as the active faults want it.
    fn apply(&mut self) -> Result<(), BuildError> {
        let kinds: Vec<FaultKind> = self.active.values().map(|fault| fault.kind).collect();
        let is_fair = kinds.iter().all(|kind| kind.is_fair());
        let is_hub_fair = kinds.iter().all(|kind| kind.is_hub_fair());
        self.world.note(Happening::Weather {
            is_fair,
            is_hub_fair,
        });
        let weather = kinds.iter().map(|kind| kind.weather());
        self.store
            .set_weather(weather.fold(Weather::default(), Weather::and));
        let was_partial = self.hub.trouble().is_managed != Managed::Well;
        self.hub.set_trouble(trouble(&kinds));
        if self.hub.trouble().is_managed != Managed::Well {
            self.world.set_partial_until(Time::MAX);
        } else if was_partial
            || kinds
                .iter()
                .any(|kind| matches!(kind, FaultKind::Grow { .. }))
        {
            let interval = self.plan.options.load_balancing_interval.as_millis();
            let interval = Time::try_from(interval).unwrap_or(Time::MAX);
            self.world
                .set_partial_until(self.world.now().saturating_add(3 * interval));
        }
        self.apply_outsiders(&kinds);
        self.apply_behaviour(&kinds);
        self.apply_slots(&kinds)?;
        for peer in 0..self.peers.len() {
            let is_down = kinds.iter().any(|kind| {
                matches!(kind, FaultKind::PeerCrash { peer: of } | FaultKind::PeerRestart { peer: of } if *of == peer)
            });
            if !is_down && self.peers[peer].is_none() {
                self.start_peer(peer);
            }
        }
        Ok(())
    }

    fn apply_outsiders(&mut self, kinds: &[FaultKind]) {
        let wanted: BTreeSet<u32> = kinds
            .iter()
            .filter_map(|kind| match kind {
                FaultKind::Outsider { partition } => Some(*partition),
                _ => None,
            })
            .collect();
        self.outside.retain(|partition, task| {
            let is_wanted = wanted.contains(partition);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for partition in wanted {
            let hub = self.hub.clone();
            self.outside.entry(partition).or_insert_with(|| {
                tokio::spawn(async move {
                    // Reads nothing: it is enough that it is there. A second outsider finds the first.
                    let link = hub
                        .attach(OPERATOR, partition, -1, Some(OUTSIDER_LEVEL))
                        .await;
                    std::future::pending::<()>().await;
                    drop(link);
                })
            });
        }
    }

    fn apply_behaviour(&self, kinds: &[FaultKind]) {
        let mut settings = self.behaviour.settings();
        (settings.errors, settings.panics, settings.hangs) = (0, 0, 0);
        settings.max_ms = self.plan.handler_ms.1;
        for kind in kinds {
            match kind {
                FaultKind::HandlerErrors { rate } => settings.errors = *rate,
                FaultKind::HandlerPanics { rate } => settings.panics = *rate,
                FaultKind::HandlerHangs { rate } => settings.hangs = *rate,
                FaultKind::HandlerSlow { ms } => settings.max_ms = *ms,
                _ => {}
            }
        }
    }

    fn apply_slots(&mut self, kinds: &[FaultKind]) -> Result<(), BuildError> {
        let joined = kinds
            .iter()
            .filter(|kind| **kind == FaultKind::Join)
            .count();
        for slot in 0..self.slots.len() {
            let is_down = slot >= self.plan.slots + joined
                || kinds.iter().any(|kind| {
                    matches!(kind, FaultKind::Crash { slot: of } | FaultKind::Restart { slot: of } if *of == slot)
                });
            if is_down {
                self.stop_slot(slot);
            } else if self.slots[slot].processor.is_none() {
                self.start_slot(slot)?;
            }
            let pause = FaultKind::Pause { slot };
            self.pause_slot(slot, kinds.contains(&pause));
            let is_cut_off = kinds.contains(&FaultKind::StoreDownFor { slot });
            if let Some(ours) = &self.slots[slot].processor {
                let weather = Weather {
                    is_down: is_cut_off,
                    ..Weather::default()
                };
                self.store.set_weather_of(ours.member, weather);
                let silence = FaultKind::LinkSilence { slot };
                self.hub.set_silent(ours.member, kinds.contains(&silence));
            }
        }
        Ok(())
    }

    fn start_slot(&mut self, slot: usize) -> Result<(), BuildError> {
        let place = &mut self.slots[slot];
        place.lives += 1;
        place.is_paused = false;
        place.processor = Some(self.setup.spawn(&format!("s{slot}-{}", place.lives))?);
        Ok(())
    }

    fn stop_slot(&mut self, slot: usize) {
        // Nobody can ask a processor that is not scheduled.
        self.pause_slot(slot, false);
        if let Some(ours) = self.slots[slot].processor.take() {
            if ours.is_claiming() {
                self.world.reach(Mark::StopWhileClaiming);
            }
            self.stopping.spawn(ours.stop());
        }
    }

    fn pause_slot(&mut self, slot: usize, is_paused: bool) {
        let place = &mut self.slots[slot];
        if let Some(ours) = &place.processor
            && place.is_paused != is_paused
        {
            place.is_paused = is_paused;
            let member = ours.member;
            if is_paused {
                ours.gate.shut();
                self.world.note(Happening::Paused { member });
            } else {
                ours.gate.open();
                // It may have slept while partitions were added.
                let interval = self.plan.options.load_balancing_interval.as_millis();
                let interval = Time::try_from(interval).unwrap_or(Time::MAX);
                self.world
                    .extend_partial_until(self.world.now().saturating_add(3 * interval));
                self.world.note(Happening::Resumed { member });
            }
        }
    }

    fn start_peer(&mut self, peer: usize) {
        self.peer_lives += 1;
        let planned = self.plan.peers[peer];
        let setup = PeerSetup {
            kind: planned.kind,
            name: format!("peer{peer}-{}", self.peer_lives),
            skew: Arc::clone(&self.skews[peer]),
            work: PeerWork {
                handler: std::time::Duration::from_millis(self.plan.handler_ms.1 / 2),
                batch: 8,
            },
        };
        let OurSetup {
            world,
            store,
            hub,
            terms,
            ..
        } = &self.setup;
        self.peers[peer] = Some(peers::spawn(world, store, hub, terms, setup));
    }

    fn note(&self, what: String) {
        self.world.note(Happening::Fault { what });
    }
}

/// Higher than ours.
const OUTSIDER_LEVEL: i64 = 5;

fn trouble(kinds: &[FaultKind]) -> HubTrouble {
    let mut trouble = HubTrouble::default();
    for kind in kinds {
        match kind {
            FaultKind::AttachHangs => trouble.is_hanging = true,
            FaultKind::AttachRefused { kind } => trouble.refusal = Some(*kind),
            FaultKind::FailedAttaches { rate } => trouble.failed_attaches = *rate,
            FaultKind::ManagementDown => trouble.is_managed = Managed::NotAtAll,
            FaultKind::ManagementShort => trouble.is_managed = Managed::Short,
            FaultKind::Repeats { rate } => trouble.repeats = *rate,
            _ => {}
        }
    }
    trouble
}
