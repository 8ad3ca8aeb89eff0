//! Who is alive, and whose each partition is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cadence::Memory;
use super::kin::{leaving_id, promised_suspect_time};
use super::snapshot::{BalanceRule, Snapshot, Standing};
use crate::model::{Ownership, PartitionId};

/// The group as one processor judges it.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) mine: Vec<PartitionId>,
    pub(super) free: Vec<Free>,
    /// Live owners by case-folded id, with what they hold.
    pub(super) others: BTreeMap<String, Vec<PartitionId>>,
    /// Whether somebody is silent for too long, but cannot be blamed for it yet.
    pub(super) is_in_doubt: bool,
    /// Whether everybody was silent when we came: the store may have been down.
    pub(super) is_suspicious: bool,
    /// Whether others that follow our rules are alive and staying.
    pub(super) has_kin: bool,
    pub(super) has_foreigners: bool,
    /// Ours, at a version that we did not write, for the first time.
    pub(super) surprises: Vec<PartitionId>,
    /// Partitions that somebody else writes in our name.
    pub(super) twins: Vec<PartitionId>,
    /// When the first of the live owners will have been silent for too long unless it shows life.
    pub(super) next_suspicion: Option<Duration>,
}

/// A partition that may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) partition_id: PartitionId,
    /// Whether its owner is leaving but still works on it.
    pub(super) is_handed_over: bool,
}

/// An owner as its records show it.
struct Owner<'a> {
    records: Vec<&'a Ownership>,
    /// Age of its newest record.
    age: Duration,
    /// The silence it is granted: for one of our own kind its newest record counts for all, else each for itself.
    limit: Duration,
    is_kin: bool,
    /// Whether it goes by our own name.
    is_twin: bool,
}

impl View {
    pub(super) fn new(
        snapshot: &Snapshot,
        standing: &Standing<'_>,
        rule: &BalanceRule,
        memory: &Memory,
    ) -> Self {
        let is_first = memory.members.is_none();
        let mut view = Self::default();
        let my_leaving_id = leaving_id(standing.owner_id);
        let mut owners: BTreeMap<String, Owner<'_>> = BTreeMap::new();
        for id in &snapshot.partitions {
            if !snapshot.ownerships.contains_key(id) {
                view.free.push(Free::abandoned(id));
            }
        }
        for (id, record) in &snapshot.ownerships {
            let is_partition = snapshot.partitions.contains(id);
            let Some(owner) = &record.owner_id else {
                if is_partition {
                    view.free.push(Free::abandoned(id));
                }
                continue;
            };
            let is_me = owner.is_same_as(standing.owner_id);
            if is_me && (is_first || is_known(record, standing)) {
                if is_partition {
                    view.mine.push(id.clone());
                }
                continue;
            }
            if is_me && memory.was_passed_on(id) {
                // Whoever had it before may write our name once more, as often as it was passed on.
                if is_partition {
                    view.mine.push(id.clone());
                }
                continue;
            }
            if is_me && !memory.surprises.contains_key(id) {
                // Once is an operator who touched the record, or a former owner that handed it over late.
                if is_partition {
                    view.surprises.push(id.clone());
                    view.mine.push(id.clone());
                }
                continue;
            }
            if is_me && is_partition {
                view.twins.push(id.clone());
            }
            let promise = if is_me {
                Some(rule.suspect_time)
            } else {
                promised_suspect_time(owner)
            };
            if promise == Some(Duration::ZERO) {
                if is_partition {
                    // What we left ourselves under the same name, nobody works on.
                    let is_handed_over = my_leaving_id
                        .as_ref()
                        .is_none_or(|me| !owner.is_same_as(me));
                    view.free.push(Free {
                        partition_id: id.clone(),
                        is_handed_over,
                    });
                }
                continue;
            }
            let age = snapshot.age(record);
            let entry = owners
                .entry(owner.as_str().to_ascii_lowercase())
                .or_insert_with(|| Owner {
                    records: Vec::new(),
                    age,
                    limit: promise.unwrap_or(rule.ownership_expiration),
                    is_kin: promise.is_some(),
                    is_twin: is_me,
                });
            entry.age = entry.age.min(age);
            if is_partition {
                entry.records.push(record);
            }
        }
        let silent = owners
            .values()
            .filter(|owner| owner.age > owner.limit)
            .count();
        view.is_suspicious = is_first && silent >= 2 && silent * 2 > owners.len();
        let excuse = if view.is_suspicious {
            Some(Duration::ZERO)
        } else {
            standing.store_up_for
        };
        for (name, owner) in owners {
            view.judge(snapshot, &name, &owner, excuse);
        }
        view
    }

    fn judge(
        &mut self,
        snapshot: &Snapshot,
        name: &str,
        owner: &Owner<'_>,
        excuse: Option<Duration>,
    ) {
        for record in &owner.records {
            let age = if owner.is_kin {
                owner.age
            } else {
                snapshot.age(record)
            };
            let silence = excuse.map_or(age, |excuse| age.min(excuse));
            if silence > owner.limit {
                self.free.push(Free::abandoned(&record.partition_id));
                continue;
            }
            self.is_in_doubt |= age > owner.limit;
            self.has_foreigners |= !owner.is_kin;
            self.has_kin |= owner.is_kin && !owner.is_twin;
            let left = owner.limit - silence;
            self.next_suspicion = Some(self.next_suspicion.map_or(left, |next| next.min(left)));
            self.others
                .entry(name.to_owned())
                .or_default()
                .push(record.partition_id.clone());
        }
    }
}

impl Free {
    fn abandoned(partition_id: &PartitionId) -> Self {
        Self {
            partition_id: partition_id.clone(),
            is_handed_over: false,
        }
    }
}

/// Whether a record in our name is one that we wrote.
fn is_known(record: &Ownership, standing: &Standing<'_>) -> bool {
    let id = &record.partition_id;
    standing.doubtful.contains(id)
        || standing.awaited.contains(id)
        || standing.held.get(id) == Some(&record.etag)
}
