//! A group in which one member decides over and over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{BalanceRule, LoadBalancingStrategy, Memory, Snapshot, Standing, kin_id, plan};
use crate::model::{ETag, OwnerId, Ownership, PartitionId};

const INTERVAL: Duration = Duration::from_secs(10);
const SUSPECT_TIME: Duration = Duration::from_secs(25);

/// What one of the members sees and knows.
#[derive(Debug)]
pub struct Group {
    snapshot: Snapshot,
    me: OwnerId,
    held: BTreeMap<PartitionId, ETag>,
    none: BTreeSet<PartitionId>,
    rule: BalanceRule,
    memory: Memory,
}

impl Group {
    /// Partitions in turn belong to each of the members, which have renewed a third of theirs in each of the last three
    /// intervals. Without members they are free.
    #[must_use]
    pub fn new(partitions: usize, members: usize) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let owner = |number: usize| kin_id(SUSPECT_TIME, &format!("{number:032x}"));
        let owned = if members == 0 { 0 } else { partitions };
        let record = |partition: usize| Ownership {
            partition_id: partition.to_string().into(),
            owner_id: Some(owner(partition % members)),
            etag: ETag::from(format!("0x8DC{partition:012X}")),
            last_modified: Some(now - INTERVAL * (1 + partition / members % 3) as u32),
        };
        let ownerships: BTreeMap<_, _> = (0..owned)
            .map(record)
            .map(|record| (record.partition_id.clone(), record))
            .collect();
        let me = owner(0);
        let mine = ownerships
            .values()
            .filter(|record| record.owner_id.as_ref() == Some(&me));
        let held = mine
            .map(|record| (record.partition_id.clone(), record.etag.clone()))
            .collect();
        Self {
            snapshot: Snapshot {
                partitions: (0..partitions).map(|id| id.to_string().into()).collect(),
                ownerships,
                as_of: now,
            },
            me,
            held,
            none: BTreeSet::new(),
            rule: BalanceRule {
                strategy: LoadBalancingStrategy::Greedy,
                interval: INTERVAL,
                suspect_time: SUSPECT_TIME,
                ownership_expiration: Duration::from_secs(120),
            },
            memory: Memory::default(),
        }
    }

    /// Forgets what was decided before.
    pub fn forget(&mut self) {
        self.memory = Memory::default();
    }

    /// Makes a plan. Returns how many partitions it renews, claims and steals.
    pub fn decide(&mut self) -> [usize; 3] {
        let standing = Standing {
            owner_id: &self.me,
            held: &self.held,
            awaited: &self.none,
            handing_over: &self.none,
            doubtful: &self.none,
            running_for: Duration::from_secs(3600),
            store_up_for: None,
        };
        let plan = plan(&self.snapshot, &standing, &mut self.memory, &self.rule);
        [plan.renew.len(), plan.claim.len(), plan.steal.len()]
    }
}
