//! O6: a partition that nobody reads is read again in bounded time (G6), as long as nothing new goes wrong and one
//! processor of ours is at work. An heir of our kind that is told to begin does so at once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bounds, Broken};
use crate::history::{Happening, Member, Partition, Time};
use crate::store::DEADLINE;

#[derive(Debug)]
pub(super) struct Takeover {
    bounds: Bounds,
    /// Links of each partition, and since when there is none.
    links: BTreeMap<Partition, (u32, Time)>,
    /// Partitions whose heir was told to begin, and when.
    told: BTreeMap<Partition, Time>,
    owners: BTreeMap<Partition, Member>,
    /// Handlers that have been called and have not returned, whoever owns the partition by now: a member does not open
    /// another link meanwhile.
    busy: BTreeSet<(Partition, Member)>,
    /// Partitions that their owner has begun to read: it waited long enough and need not be told.
    begun: BTreeSet<Partition>,
    /// Who has a link to what: an owner that gets a partition back may never have let go of it.
    readers: BTreeSet<(Partition, Member)>,
    at_work: BTreeSet<Member>,
    ours: BTreeSet<Member>,
    is_fair: bool,
    /// The last time that something went wrong, or might have.
    disturbed: Time,
    next_check: Time,
    /// Longest time without a reader while all was well.
    pub(super) longest: Time,
}

const CHECK_EVERY: Time = 500;

/// An heir looks four times a second, reads the checkpoint and attaches.
const BEGIN: Time = 2_500;

/// What went wrong before that long holds nobody up any more: requests without an answer have been given up.
const SETTLED: Time = 2 * DEADLINE;

impl Takeover {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            links: BTreeMap::new(),
            told: BTreeMap::new(),
            owners: BTreeMap::new(),
            busy: BTreeSet::new(),
            begun: BTreeSet::new(),
            readers: BTreeSet::new(),
            at_work: BTreeSet::new(),
            ours: BTreeSet::new(),
            is_fair: true,
            disturbed: 0,
            next_check: 0,
            longest: 0,
        }
    }

    pub(super) fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::Appended { partition, .. } => {
                self.links.entry(*partition).or_insert((0, now));
            }
            Happening::Attached {
                member, partition, ..
            } => {
                self.readers.insert((*partition, *member));
                if self.owners.get(partition) == Some(member) {
                    self.begun.insert(*partition);
                }
                let since = self.unread_for(now, *partition);
                self.longest = self.longest.max(since);
                self.links.entry(*partition).or_insert((0, now)).0 += 1;
                self.told.remove(partition);
            }
            Happening::OwnerChanged { partition, to, .. } => {
                self.told.remove(partition);
                self.begun.remove(partition);
                if self.is_held_up(*partition) {
                    self.count_from(now, *partition);
                }
                match to {
                    Some(to) => self.owners.insert(*partition, *to),
                    None => self.owners.remove(partition),
                };
                if to.is_some_and(|to| self.readers.contains(&(*partition, to))) {
                    self.begun.insert(*partition);
                }
            }
            Happening::HandlerStarted {
                member, partition, ..
            } => {
                self.busy.insert((*partition, *member));
            }
            Happening::HandlerDone {
                member, partition, ..
            } => self.returned(now, *partition, *member),
            // An heir that has died, or left, before it was told does not begin: the bound on any takeover holds.
            Happening::Renewed { by, partition }
                if self.ours.contains(by)
                    && (self.owners.get(partition))
                        .is_some_and(|owner| owner != by && self.at_work.contains(owner))
                    && !self.begun.contains(partition) =>
            {
                self.told.insert(*partition, now);
            }
            Happening::Detached {
                member, partition, ..
            } => {
                self.readers.remove(&(*partition, *member));
                let link = self.links.entry(*partition).or_insert((0, now));
                *link = (link.0.saturating_sub(1), now);
            }
            Happening::Up { member, is_ours } => {
                self.disturb(now);
                if *is_ours {
                    self.ours.insert(*member);
                    self.at_work.insert(*member);
                }
            }
            Happening::Resumed { member } => {
                self.disturb(now);
                if self.ours.contains(member) {
                    self.at_work.insert(*member);
                }
            }
            Happening::Stopping { member }
            | Happening::Down { member, .. }
            | Happening::Paused { member } => {
                self.disturb(now);
                self.at_work.remove(member);
                if matches!(happening, Happening::Down { .. }) {
                    self.busy.retain(|(_, by)| by != member);
                    self.ours.remove(member);
                }
            }
            Happening::Weather {
                is_fair,
                is_hub_fair,
            } => {
                let was_fair = self.is_fair;
                self.is_fair = *is_fair && *is_hub_fair;
                self.disturb(now);
                if !was_fair {
                    self.disturbed = now + self.bounds.late;
                }
            }
            Happening::HandlerFailed {
                member, partition, ..
            } => {
                self.returned(now, *partition, *member);
                self.disturb(now);
            }
            Happening::Fault { .. } => self.disturb(now),
            _ => {}
        }
        if now < self.next_check {
            return Ok(());
        }
        self.next_check = now + CHECK_EVERY;
        for partition in self.links.keys() {
            let unread = self.unread_for(now, *partition);
            if unread > self.bounds.takeover {
                return Err((
                    "O6 takeover",
                    format!("nobody reads {partition} for {unread} ms"),
                ));
            }
        }
        let late = self.told.iter().find(|(partition, at)| {
            let is_well = self.is_fair && self.disturbed + SETTLED < **at;
            is_well && now - **at > BEGIN && !self.is_held_up(**partition)
        });
        if let Some((partition, at)) = late {
            let what = format!(
                "the heir of {partition} has not begun {} ms after it was told",
                now - at
            );
            return Err(("O6 takeover", what));
        }
        Ok(())
    }

    fn disturb(&mut self, now: Time) {
        self.disturbed = self.disturbed.max(now);
    }

    /// Whether the owner's handler has not returned: it may hang as long as it likes, and holds up only its partition.
    fn is_held_up(&self, partition: Partition) -> bool {
        let owner = self.owners.get(&partition);
        owner.is_some_and(|owner| self.busy.contains(&(partition, *owner)))
    }

    fn returned(&mut self, now: Time, partition: Partition, member: Member) {
        let was_held_up = self.is_held_up(partition);
        self.busy.remove(&(partition, member));
        if was_held_up {
            self.count_from(now, partition);
        }
    }

    /// Nobody was to blame for what nobody read, or began, until now.
    fn count_from(&mut self, now: Time, partition: Partition) {
        if let Some((0, since)) = self.links.get_mut(&partition) {
            *since = now;
        }
        if let Some(at) = self.told.get_mut(&partition) {
            *at = now;
        }
    }

    /// How long nobody has read a partition that somebody should.
    fn unread_for(&self, now: Time, partition: Partition) -> Time {
        match self.links.get(&partition) {
            Some((0, since))
                if self.is_fair && !self.at_work.is_empty() && !self.is_held_up(partition) =>
            {
                now.saturating_sub(*since.max(&self.disturbed))
            }
            _ => 0,
        }
    }
}
