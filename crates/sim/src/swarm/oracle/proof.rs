//! Invariant 1: a handler starts only with a proof that the partition is still ours. The hub knows which links stand
//! and the store when a record was written last; a processor may believe less, but not more.

use std::collections::BTreeMap;

use super::{Bounds, Broken};
use crate::history::{Happening, Member, Partition, Time};

/// A processor without a lease asks its link for news this often; the call in progress comes on top.
const LISTENS_EVERY: Time = 6_000;

/// A link that says nothing for so long proves nothing.
const LINK_SILENCE: Time = 61_000;

#[derive(Debug)]
pub(super) struct Proofs {
    bounds: Bounds,
    /// Of each processor of ours: its last write to any record.
    owners: BTreeMap<Member, Time>,
    records: BTreeMap<(Member, Partition), Time>,
    /// How many links stand, and since when none does.
    links: BTreeMap<(Member, Partition), (u32, Time)>,
    /// When the last call began: it, and the checkpoint in it, may have taken all the time since.
    busy: BTreeMap<(Member, Partition), Time>,
    resumed: BTreeMap<Member, Time>,
    silent: BTreeMap<Member, Time>,
}

impl Proofs {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            owners: BTreeMap::new(),
            records: BTreeMap::new(),
            links: BTreeMap::new(),
            busy: BTreeMap::new(),
            resumed: BTreeMap::new(),
            silent: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::Up {
                member,
                is_ours: true,
            } => {
                self.owners.insert(*member, now);
            }
            Happening::Renewed { by, partition }
            | Happening::OwnerChanged {
                by,
                partition,
                to: Some(_),
                ..
            } => {
                if let Some(newest) = self.owners.get_mut(by) {
                    *newest = now;
                    self.records.insert((*by, *partition), now);
                }
            }
            Happening::Attached {
                member, partition, ..
            } => self.link(*member, *partition).0 += 1,
            Happening::Detached {
                member, partition, ..
            } => {
                let link = self.link(*member, *partition);
                *link = (link.0.saturating_sub(1), now);
            }
            Happening::Resumed { member } => {
                self.resumed.insert(*member, now);
            }
            Happening::Silent {
                member,
                is_silent: true,
            } => {
                self.silent.insert(*member, now);
            }
            Happening::HandlerStarted {
                member,
                partition,
                is_same_call: false,
                ..
            } => {
                let result = self.check(now, *member, *partition);
                self.busy.insert((*member, *partition), now);
                return result;
            }
            _ => {}
        }
        Ok(())
    }

    fn link(&mut self, member: Member, partition: Partition) -> &mut (u32, Time) {
        self.links.entry((member, partition)).or_default()
    }

    fn check(&self, now: Time, member: Member, partition: Partition) -> Result<(), Broken> {
        let Some(newest) = self.owners.get(&member) else {
            return Ok(());
        };
        let key = (member, partition);
        let (standing, gone) = self.links.get(&key).copied().unwrap_or_default();
        let record = self.records.get(&key).copied().unwrap_or(0);
        let has_lease =
            now - newest <= self.bounds.suspect && now - record <= self.bounds.expiration;
        if standing > 0 || has_lease {
            return Ok(());
        }
        let silent = self.silent.get(&member).map_or(0, |at| at + LINK_SILENCE);
        let resumed = self.resumed.get(&member).copied().unwrap_or(0);
        // Both proofs were there once: since when is neither?
        let lease_ended = (newest + self.bounds.suspect).min(record + self.bounds.expiration);
        let since = gone.max(lease_ended).max(silent).max(resumed);
        let asked_for = now.saturating_sub(since + LISTENS_EVERY);
        let call = self.busy.get(&key).map_or(0, |begun| now - begun);
        if asked_for > call {
            let what = format!(
                "{member} starts a handler for {partition}, {} ms after both proofs",
                now - since
            );
            return Err(("I1 proof", what));
        }
        Ok(())
    }
}
