//! .NET: renews first, one claim a cycle, and the next cycle at once while it is not balanced.

use rand::Rng;
use rand::seq::IndexedRandom as _;

use super::view::{View, shares};
use crate::history::Partition;

/// The one partition to claim, and the smallest share.
pub(super) fn decide(
    view: &View,
    me: &str,
    held: usize,
    rng: &mut impl Rng,
) -> (Option<Partition>, usize) {
    let mut owners = view.by_owner(me);
    owners.remove(me);
    let (min, _) = shares(view.partitions, owners.len() + 1);
    let somebody_is_below = owners.values().any(|theirs| theirs.len() < min);
    if held > min || (held == min && somebody_is_below) {
        return (None, min);
    }
    let free = view.free();
    if let Some(partition) = free.choose(rng) {
        return (Some(*partition), min);
    }
    let of_owners_with = |wanted: &dyn Fn(usize) -> bool| -> Vec<Partition> {
        let theirs = owners.values().filter(|theirs| wanted(theirs.len()));
        theirs.flatten().copied().collect()
    };
    let mut victims = of_owners_with(&|count| count > min + 1);
    if victims.is_empty() && held < min {
        victims = of_owners_with(&|count| count == min + 1);
    }
    (victims.choose(rng).copied(), min)
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn thirteen_partitions_for_three_end_at_four_four_five() {
        let mut rng = Seed(1).stream("test", 0);
        // Four, four and five free ones: somebody with four may take the thirteenth.
        let thirteenth = decide(
            &view(13, &[("a", 4), ("b", 4), ("me", 4)]),
            "me",
            4,
            &mut rng,
        );
        assert_eq!(thirteenth.0, Some(12));
        let settled = view(13, &[("a", 5), ("b", 4), ("me", 4)]);
        assert_eq!(decide(&settled, "me", 4, &mut rng).0, None);
    }
}
