//! Groups, decisions and a little cluster that races.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::balance::{
    BalanceRule, Claim, LoadBalancingStrategy, Memory, Outcome, Plan, Snapshot, Standing, plan,
};
use crate::model::{ETag, OwnerId, Ownership, PartitionId, WriteCondition};

pub(super) const EXPIRATION: Duration = Duration::from_secs(120);
pub(super) const SUSPECT: Duration = Duration::from_secs(25);
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

pub(super) fn rule(strategy: LoadBalancingStrategy) -> BalanceRule {
    BalanceRule {
        strategy,
        interval: INTERVAL,
        suspect_time: SUSPECT,
        ownership_expiration: EXPIRATION,
    }
}

/// A hub of `partitions` with one record for each `(partition, owner, age in s)`.
pub(super) fn group(partitions: usize, records: &[(usize, &str, u64)]) -> Snapshot {
    Snapshot {
        partitions: (0..partitions).map(id).collect(),
        ownerships: records
            .iter()
            .map(|&(partition, owner, age)| {
                let ownership = Ownership {
                    partition_id: id(partition),
                    owner_id: (!owner.is_empty()).then(|| owner.into()),
                    etag: ETag::from(format!("v{partition}")),
                    last_modified: Some(now() - Duration::from_secs(age)),
                };
                (id(partition), ownership)
            })
            .collect(),
        as_of: now(),
    }
}

pub(super) fn id(partition: usize) -> PartitionId {
    partition.to_string().into()
}

/// One processor and what it carries from cycle to cycle.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) owner_id: OwnerId,
    pub(super) rule: BalanceRule,
    pub(super) memory: Memory,
    pub(super) held: BTreeMap<PartitionId, ETag>,
    pub(super) awaited: BTreeSet<PartitionId>,
    pub(super) handing_over: BTreeSet<PartitionId>,
    pub(super) doubtful: BTreeSet<PartitionId>,
    pub(super) running_for: Duration,
    pub(super) store_up_for: Option<Duration>,
}

impl Member {
    pub(super) fn new(owner_id: &str) -> Self {
        Self::with_strategy(owner_id, LoadBalancingStrategy::Greedy)
    }

    pub(super) fn with_strategy(owner_id: &str, strategy: LoadBalancingStrategy) -> Self {
        Self {
            owner_id: owner_id.into(),
            rule: rule(strategy),
            memory: Memory::default(),
            held: BTreeMap::new(),
            awaited: BTreeSet::new(),
            handing_over: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            running_for: Duration::ZERO,
            store_up_for: None,
        }
    }

    /// A member that wrote all records of its name in `snapshot` itself.
    pub(super) fn settled(owner_id: &str, snapshot: &Snapshot) -> Self {
        let mut member = Self::new(owner_id);
        let mine = |ownership: &&Ownership| {
            ownership
                .owner_id
                .as_ref()
                .is_some_and(|owner| owner.is_same_as(&member.owner_id))
        };
        let held = snapshot.ownerships.values().filter(mine);
        member.held = held
            .map(|ownership| (ownership.partition_id.clone(), ownership.etag.clone()))
            .collect();
        // Neither a newcomer nor surprised by who is there.
        member.plan(snapshot);
        member
    }

    pub(super) fn plan(&mut self, snapshot: &Snapshot) -> Plan {
        let standing = Standing {
            owner_id: &self.owner_id,
            held: &self.held,
            awaited: &self.awaited,
            handing_over: &self.handing_over,
            doubtful: &self.doubtful,
            running_for: self.running_for,
            store_up_for: self.store_up_for,
        };
        plan(snapshot, &standing, &mut self.memory, &self.rule)
    }
}

/// A group of processors over a shared store, stepped in any order.
pub(super) struct Cluster {
    pub(super) snapshot: Snapshot,
    writes: u64,
    pub(super) steals: u64,
    /// How often each partition went from one owner to another, or from nobody to one.
    pub(super) changes: BTreeMap<PartitionId, u32>,
}

impl Cluster {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            snapshot: group(partitions, &[]),
            writes: 0,
            steals: 0,
            changes: BTreeMap::new(),
        }
    }

    /// One processor's cycle, planned on `view` and applied by compare-and-set to the present. Returns the delay before
    /// its next.
    pub(super) fn step(&mut self, member: &mut Member, view: &Snapshot, seed: u64) -> Duration {
        let plan = member.plan(view);
        self.steals += plan.steal.len() as u64;
        member.held.retain(|id, _| plan.keep.contains(id));
        let mut lost = 0;
        for claim in plan.renew.iter().chain(&plan.claim).chain(&plan.steal) {
            match self.write(claim, &member.owner_id) {
                Some(etag) => {
                    member.held.insert(claim.partition_id.clone(), etag);
                }
                None => {
                    lost += 1;
                    member.held.remove(&claim.partition_id);
                }
            }
        }
        let outcome = Outcome { lost };
        let mut rng = StdRng::seed_from_u64(seed);
        member
            .memory
            .next_delay(&plan, outcome, &member.rule, &mut rng)
    }

    fn write(&mut self, claim: &Claim, owner_id: &OwnerId) -> Option<ETag> {
        let records = &mut self.snapshot.ownerships;
        let current = records.get(&claim.partition_id).map(|record| &record.etag);
        let holds = match &claim.condition {
            WriteCondition::Absent => current.is_none(),
            WriteCondition::Matches(etag) => current == Some(etag),
            WriteCondition::Unconditional => panic!("never planned"),
        };
        if !holds {
            return None;
        }
        let before = records.get(&claim.partition_id);
        if before.and_then(|record| record.owner_id.as_ref()) != Some(owner_id) {
            *self.changes.entry(claim.partition_id.clone()).or_default() += 1;
        }
        self.writes += 1;
        let etag = ETag::from(self.writes.to_string());
        let ownership = Ownership {
            partition_id: claim.partition_id.clone(),
            owner_id: Some(owner_id.clone()),
            etag: etag.clone(),
            last_modified: Some(self.snapshot.as_of),
        };
        records.insert(claim.partition_id.clone(), ownership);
        Some(etag)
    }

    /// A round in random order of a random part of the members; each may have looked before the others wrote.
    pub(super) fn round(&mut self, members: &mut [Member], rng: &mut StdRng, stale: bool) {
        self.snapshot.as_of += Duration::from_secs(1);
        let before = self.snapshot.clone();
        for member in members {
            member.running_for += Duration::from_secs(1);
            if stale && rng.random_ratio(1, 4) {
                continue;
            }
            let view = if stale && rng.random() {
                before.clone()
            } else {
                self.snapshot.clone()
            };
            self.step(member, &view, rng.random());
        }
    }

    /// A cycle of each, one after the other, after so much time.
    pub(super) fn cycle(&mut self, members: &mut [Member], after: Duration) {
        self.snapshot.as_of += after;
        for member in members {
            member.running_for += after;
            let view = self.snapshot.clone();
            self.step(member, &view, 0);
        }
    }

    pub(super) fn is_shared(&self, members: &[Member]) -> bool {
        let loads = self.loads(members);
        let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
        loads.iter().sum::<usize>() == self.snapshot.partitions.len() && spread <= 1
    }

    pub(super) fn loads(&self, members: &[Member]) -> Vec<usize> {
        let load = |member: &Member| {
            let is_theirs =
                |record: &&Ownership| record.owner_id.as_ref() == Some(&member.owner_id);
            self.snapshot.ownerships.values().filter(is_theirs).count()
        };
        members.iter().map(load).collect()
    }
}
