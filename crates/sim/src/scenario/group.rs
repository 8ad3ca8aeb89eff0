//! Processors of one or several kinds in one group.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use eventhubs_processor::{EventPosition, ProcessorOptions};
use tokio::task::AbortHandle;

use super::Subject;
use super::replay::Replay;
use crate::handler::{Behaviour, Settings};
use crate::history::Time;
use crate::hub::SimHub;
use crate::ours::{OurSetup, Ours};
use crate::peers::{self, PeerHandle, PeerSetup, PeerWork};
use crate::seed::Seed;
use crate::store::SimStore;
use crate::terms::Terms;
use crate::world::World;

/// A processor of any kind.
#[derive(Debug)]
pub(crate) enum Processor {
    Ours(Box<Ours>),
    Peer(PeerHandle),
}

impl Processor {
    pub(crate) fn crash(self) {
        match self {
            Self::Ours(ours) => ours.crash(),
            Self::Peer(peer) => peer.crash(),
        }
    }

    pub(crate) async fn stop(self) {
        match self {
            Self::Ours(ours) => ours.stop().await,
            Self::Peer(peer) => peer.stop().await,
        }
    }
}

/// A group on an idle hub.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) world: World,
    pub(crate) store: SimStore,
    pub(crate) replay: Replay,
    setup: OurSetup,
    started: u32,
}

impl Group {
    pub(crate) fn new(seed: Seed, partitions: u32, options: &ProcessorOptions) -> Self {
        let world = World::new(seed);
        let store = SimStore::new(world.clone());
        let hub = SimHub::new(world.clone(), partitions);
        let behaviour = Behaviour::new(Settings {
            min_ms: 5,
            max_ms: 50,
            errors: 0,
            panics: 0,
            hangs: 0,
            checkpoint_every: Some(1),
            has_batches: false,
            chance: seed.stream("handler", 0),
        });
        let mut options = options.clone();
        options.default_starting_position = EventPosition::Earliest;
        let setup = OurSetup {
            world: world.clone(),
            store: store.clone(),
            hub,
            terms: Terms::default(),
            options,
            behaviour,
            bug: None,
        };
        Self {
            world,
            store,
            replay: Replay::new(partitions),
            setup,
            started: 0,
        }
    }

    /// Starts one more processor; the clock of a foreign one is `skew_ms` ahead.
    pub(crate) fn start(&mut self, subject: Subject, skew_ms: i64) -> Option<Processor> {
        self.started += 1;
        let name = format!("p{}", self.started);
        match subject {
            Subject::Ours => {
                let ours = self.setup.spawn(&name).ok()?;
                Some(Processor::Ours(Box::new(ours)))
            }
            Subject::Peer(kind) => {
                let setup = PeerSetup {
                    kind,
                    name,
                    skew: Arc::new(AtomicI64::new(skew_ms)),
                    work: PeerWork {
                        handler: Duration::from_millis(25),
                        batch: 1,
                    },
                };
                let OurSetup {
                    world,
                    store,
                    hub,
                    terms,
                    ..
                } = &self.setup;
                let peer = peers::spawn(world, store, hub, terms, setup);
                Some(Processor::Peer(peer))
            }
        }
    }

    /// Appends an event to each partition every two seconds, never all at once, until aborted.
    pub(crate) fn load(&self) -> AbortHandle {
        let hub = self.setup.hub.clone();
        let append = async move {
            for tick in 0_u32.. {
                tokio::time::sleep(Duration::from_millis(100)).await;
                for partition in (tick % 20..hub.partitions()).step_by(20) {
                    hub.append(partition);
                }
            }
        };
        tokio::spawn(append).abort_handle()
    }

    pub(crate) async fn sleep(&mut self, milliseconds: Time) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        self.observe();
    }

    pub(crate) fn observe(&mut self) {
        let Self { world, replay, .. } = self;
        world.with_history(|history| replay.advance(history.records()));
    }

    /// Measures from now on.
    pub(crate) fn begin_window(&mut self) {
        self.observe();
        self.replay.begin_window(self.world.now());
    }

    /// Waits until every partition is read and no ownership has changed for `quiet` milliseconds, at most until
    /// `limit` after now.
    pub(crate) async fn settle(&mut self, quiet: Time, limit: Time) {
        let deadline = self.world.now() + limit;
        loop {
            self.sleep(1000).await;
            let now = self.world.now();
            let is_quiet = now - self.replay.last_change >= quiet;
            if (is_quiet && self.replay.is_covered()) || now >= deadline {
                return;
            }
        }
    }
}
