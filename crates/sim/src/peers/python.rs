//! Python: all free ones up to the larger share at once, and steals only below the smaller share.

use rand::Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::view::{View, shares};
use crate::history::Partition;

/// The partitions to claim.
pub(super) fn decide(view: &View, me: &str, is_greedy: bool, rng: &mut impl Rng) -> Vec<Partition> {
    let owners = view.by_owner(me);
    let (expected, extra) = shares(view.partitions, owners.len());
    let max = expected + usize::from(extra > 0);
    let mine = owners.get(me).map_or(0, Vec::len);
    if mine >= max {
        return Vec::new();
    }
    let mut free = view.free();
    if !free.is_empty() {
        free.shuffle(rng);
        free.truncate(if is_greedy { max - mine } else { 1 });
        return free;
    }
    if mine >= expected {
        return Vec::new();
    }
    let largest = owners.values().map(Vec::len).max().unwrap_or(0);
    let victim = owners.values().find(|theirs| theirs.len() == largest);
    victim
        .and_then(|theirs| theirs.choose(rng))
        .map_or_else(Vec::new, |partition| vec![*partition])
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn the_first_starter_keeps_what_nobody_below_the_floor_wants() {
        let mut rng = Seed(1).stream("test", 0);
        // 32 for ten: floor 3, and nobody with 3 steals from the one with 5.
        let owners: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "me"]
            .into_iter()
            .map(|owner| (owner, 3))
            .chain([("first", 5)])
            .collect();
        assert!(decide(&view(32, &owners), "me", true, &mut rng).is_empty());
    }
}
