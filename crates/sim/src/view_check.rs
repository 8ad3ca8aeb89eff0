//! Whether a claim of ours follows from what the processor had seen. Says what is certainly wrong, nothing about taste.

use std::collections::BTreeMap;

use eventhubs_processor::checkpoint::WriteCondition;

use crate::history::{Member, Partition};
use crate::store::Listing;
use crate::world::World;

/// How the owner id of a processor of ours begins while it waits for somebody to take over.
const LEAVING: &str = "rs1-0-";

pub(crate) fn is_leaving(owner_id: &str) -> bool {
    owner_id.starts_with(LEAVING)
}

/// What is wrong with writing `member` into `partition`, if anything. An owner whose newest record is younger than
/// `surely_alive` seconds is alive by every rule. `has_namesake`: the processor may count itself twice, once as a
/// namesake that holds what it does not know to be its own.
pub(crate) fn claim(
    world: &World,
    view: &Listing,
    member: Member,
    partition: Partition,
    condition: &WriteCondition,
    surely_alive: u64,
    has_namesake: bool,
) -> Option<&'static str> {
    if !matches!(
        condition,
        WriteCondition::Absent | WriteCondition::Matches(_)
    ) {
        return Some("an ownership write without a condition");
    }
    if !world.is_complete() {
        // Who knows of too few partitions takes its share for too small, and cannot know better.
        return None;
    }
    let owner_of = |owner: &Option<_>| -> Option<Member> {
        let staying = owner.as_deref().filter(|id: &&str| !is_leaving(id));
        staying.and_then(|id| world.member_of(id))
    };
    let mut newest: BTreeMap<Member, u64> = BTreeMap::new();
    let mut loads: BTreeMap<Member, usize> = BTreeMap::new();
    for (_, blob) in &view.records {
        if let Some(owner) = owner_of(&blob.owner) {
            let newest = newest.entry(owner).or_default();
            *newest = (*newest).max(blob.modified);
            *loads.entry(owner).or_default() += 1;
        }
    }
    let (_, blob) = view.records.iter().find(|(id, _)| *id == partition)?;
    let victim = owner_of(&blob.owner).filter(|owner| *owner != member)?;
    let is_alive = |owner: Member| view.date.saturating_sub(newest[&owner]) < surely_alive;
    if !is_alive(victim) || view.date.saturating_sub(blob.modified) >= surely_alive {
        return None;
    }
    if view.records.iter().any(|(_, blob)| blob.owner.is_none()) {
        return Some("a steal while a partition is free");
    }
    // Everybody who may count is counted, which makes the quota as small as it can be.
    let others = loads.keys().filter(|owner| **owner != member).count();
    let members = others + 1 + usize::from(has_namesake);
    let quota = view.records.len() / members;
    (loads[&victim] <= quota).then_some("a steal from an owner with no more than its share")
}
