//! JS: one of its wishes a cycle (greedy: all), each claimed without a condition if it saw no record.

use rand::Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::view::{View, shares};
use crate::history::Partition;

/// The partitions to claim.
pub(super) fn decide(view: &View, me: &str, is_greedy: bool, rng: &mut impl Rng) -> Vec<Partition> {
    let wishes = wishes(view, me, rng);
    if is_greedy {
        return wishes;
    }
    wishes
        .choose(rng)
        .map_or_else(Vec::new, |partition| vec![*partition])
}

fn wishes(view: &View, me: &str, rng: &mut impl Rng) -> Vec<Partition> {
    let mut free = view.free();
    if free.len() == view.partitions as usize {
        return free;
    }
    let mut owners = view.by_owner(me);
    let (min, extra) = shares(view.partitions, owners.len());
    let with_extra = owners.values().filter(|theirs| theirs.len() > min).count();
    let is_balanced = owners
        .values()
        .all(|theirs| theirs.len() == min || theirs.len() == min + 1)
        && with_extra == extra;
    if is_balanced {
        return Vec::new();
    }
    let mine = owners.remove(me).map_or(0, |mine| mine.len());
    let want = (min + usize::from(with_extra < extra)).saturating_sub(mine);
    free.shuffle(rng);
    free.truncate(want);
    let mut missing = want - free.len();
    let mut victims: Vec<Vec<Partition>> = owners
        .into_values()
        .filter(|theirs| theirs.len() > min)
        .collect();
    victims.sort_by_key(|theirs| std::cmp::Reverse(theirs.len()));
    for (rank, mut theirs) in victims.into_iter().enumerate() {
        let kept = min + usize::from(rank < extra);
        theirs.shuffle(rng);
        theirs.truncate(theirs.len().saturating_sub(kept).min(missing));
        missing -= theirs.len();
        free.extend(theirs);
    }
    free
}
