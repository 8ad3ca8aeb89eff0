//! An event hub: partitions that grow, one epoch-0 receiver each, and links that break.

mod client;
mod link;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventhubs_processor::error::TransportErrorKind;
use rand::RngExt as _;
use rand::rngs::StdRng;

pub(crate) use client::HubClient;
pub(crate) use link::{Link, Receiver};

use crate::history::{Happening, Member, Partition, Time};
use crate::world::World;

/// The hub. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimHub {
    world: World,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    partitions: Vec<Log>,
    next_link: u64,
    chance: StdRng,
    trouble: HubTrouble,
    /// Members that hear nothing from the hub, and since when.
    silent: BTreeMap<Member, Time>,
}

/// What is wrong with the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HubTrouble {
    /// Thousandths of attaches that fail.
    pub(crate) failed_attaches: u32,
    /// Every attach is refused.
    pub(crate) refusal: Option<TransportErrorKind>,
    /// No attach is answered.
    pub(crate) is_hanging: bool,
    /// It does not tell its partitions.
    pub(crate) is_managed: Managed,
    /// Thousandths of deliveries that begin with the event before.
    pub(crate) repeats: u32,
}

/// What the hub says of its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Managed {
    #[default]
    Well,
    /// Half of them.
    Short,
    NotAtAll,
}

#[derive(Debug, Default)]
struct Log {
    /// When each event was enqueued; its sequence number is its index.
    events: Vec<Time>,
    attached: Vec<Arc<Link>>,
}

/// From asking for a receiver to having it.
const ATTACH: Duration = Duration::from_millis(150);

/// An attach that hears nothing fails after this long: the transport's deadline.
const UNANSWERED: Duration = Duration::from_secs(20);

/// The same for a link: a transport that is slow to notice, so that for a while the processor's own patience (60 s) is
/// what counts.
const IDLE_TIMEOUT: Time = 75_000;
const HEARTBEAT: Time = 5_000;

/// Asking for the partition ids.
pub(crate) const MANAGEMENT: Duration = Duration::from_millis(20);

impl SimHub {
    pub(crate) fn new(world: World, partitions: u32) -> Self {
        let state = State {
            partitions: (0..partitions).map(|_| Log::default()).collect(),
            next_link: 0,
            chance: world.seed().stream("hub faults", 0),
            trouble: HubTrouble::default(),
            silent: BTreeMap::new(),
        };
        Self {
            world,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn partitions(&self) -> u32 {
        u32::try_from(self.lock().partitions.len()).unwrap_or(u32::MAX)
    }

    /// Adds partitions, as scaling the hub up does.
    pub(crate) fn grow(&self, by: u32) {
        let mut state = self.lock();
        state.partitions.extend((0..by).map(|_| Log::default()));
    }

    pub(crate) fn append(&self, partition: Partition) {
        let now = self.world.now();
        let seq = {
            let mut state = self.lock();
            let Some(log) = state.partitions.get_mut(partition as usize) else {
                return;
            };
            log.events.push(now);
            for link in &log.attached {
                link.wake();
            }
            log.events.len() as i64 - 1
        };
        self.world.note(Happening::Appended { partition, seq });
    }

    /// Sequence number of the newest event, -1 if there is none.
    pub(crate) fn last(&self, partition: Partition) -> i64 {
        let state = self.lock();
        let log = state.partitions.get(partition as usize);
        log.map_or(-1, |log| log.events.len() as i64 - 1)
    }

    /// Breaks the links of one partition.
    pub(crate) fn disconnect(&self, partition: Partition, kind: TransportErrorKind) {
        let links = {
            let mut state = self.lock();
            let Some(log) = state.partitions.get_mut(partition as usize) else {
                return;
            };
            std::mem::take(&mut log.attached)
        };
        self.end(links, kind);
    }

    /// Breaks all links of one member.
    pub(crate) fn disconnect_member(&self, member: Member, kind: TransportErrorKind) {
        let mut links = Vec::new();
        for log in &mut self.lock().partitions {
            links.extend(log.attached.extract_if(.., |link| link.member == member));
        }
        self.end(links, kind);
    }

    pub(crate) fn set_trouble(&self, trouble: HubTrouble) {
        self.lock().trouble = trouble;
    }

    pub(crate) fn trouble(&self) -> HubTrouble {
        self.lock().trouble
    }

    /// Lets a member hear nothing any more, or hear again.
    pub(crate) fn set_silent(&self, member: Member, is_silent: bool) {
        let now = self.world.now();
        if self.silent_since(member).is_some() == is_silent {
            return;
        }
        self.world.note(Happening::Silent { member, is_silent });
        let mut state = self.lock();
        if is_silent {
            state.silent.insert(member, now);
        } else {
            state.silent.remove(&member);
        }
        for link in state.partitions.iter().flat_map(|log| &log.attached) {
            link.wake();
        }
    }

    /// Since when a member has heard nothing.
    pub(crate) fn silent_since(&self, member: Member) -> Option<Time> {
        self.lock().silent.get(&member).copied()
    }

    /// Opens a receiver after sequence number `after`. One with an owner level displaces whoever reads the partition at
    /// that level or below.
    pub(crate) async fn attach(
        &self,
        member: Member,
        partition: Partition,
        after: i64,
        level: Option<i64>,
    ) -> Result<Receiver, TransportErrorKind> {
        tokio::time::sleep(ATTACH).await;
        let trouble = self.trouble();
        if trouble.is_hanging || self.silent_since(member).is_some() {
            tokio::time::sleep(UNANSWERED).await;
            return Err(TransportErrorKind::Timeout);
        }
        if let Some(kind) = trouble.refusal {
            return Err(kind);
        }
        let (link, displaced) = {
            let mut state = self.lock();
            let rate = trouble.failed_attaches;
            if rate > 0 && state.chance.random_range(0..1000) < rate {
                return Err(TransportErrorKind::LinkDetached);
            }
            state.next_link += 1;
            let link = Arc::new(Link::new(state.next_link, member, partition, level));
            let log = state
                .partitions
                .get_mut(partition as usize)
                .ok_or(TransportErrorKind::NotFound)?;
            if log.attached.iter().any(|other| other.level > level) {
                return Err(TransportErrorKind::OwnershipLost);
            }
            let displaced = if level.is_some() {
                std::mem::take(&mut log.attached)
            } else {
                Vec::new()
            };
            log.attached.push(Arc::clone(&link));
            (link, displaced)
        };
        self.end(displaced, TransportErrorKind::OwnershipLost);
        self.world.note(Happening::Attached {
            member,
            partition,
            link: link.id,
            after,
        });
        Ok(Receiver::new(self.clone(), link, after))
    }

    fn end(&self, links: Vec<Arc<Link>>, kind: TransportErrorKind) {
        for link in links {
            link.end(kind);
            self.world.note(link.detached());
        }
    }

    /// A receiver was closed or dropped.
    fn detach(&self, link: &Link) {
        let was_attached = {
            let mut state = self.lock();
            state
                .partitions
                .get_mut(link.partition as usize)
                .is_some_and(|log| {
                    let before = log.attached.len();
                    log.attached.retain(|other| other.id != link.id);
                    log.attached.len() < before
                })
        };
        if was_attached {
            self.world.note(link.detached());
        }
    }

    /// Whether the next delivery begins with the event before.
    fn draws_repeat(&self) -> bool {
        let mut state = self.lock();
        let rate = state.trouble.repeats;
        rate > 0 && state.chance.random_range(0..1000) < rate
    }

    /// When the events after `after` were enqueued, at most `max` of them.
    fn events_after(&self, partition: Partition, after: i64, max: usize) -> Vec<Time> {
        let state = self.lock();
        let start = usize::try_from(after + 1).unwrap_or(0);
        state
            .partitions
            .get(partition as usize)
            .and_then(|log| log.events.get(start..))
            .map_or_else(Vec::new, |events| events[..events.len().min(max)].to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
