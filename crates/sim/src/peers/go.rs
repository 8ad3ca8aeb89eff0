//! Go, and Rust, which is a port of it with a true shuffle and with given-back partitions counted as an owner's.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::view::{View, shares};
use crate::history::Partition;

/// The partitions to claim besides those held.
pub(super) fn decide(
    view: &View,
    me: &str,
    is_greedy: bool,
    is_rust: bool,
    rng: &mut impl Rng,
) -> Vec<Partition> {
    let mut owners = view.by_owner(me);
    let mut free = view.free();
    if is_rust {
        let nobody: Vec<_> = given_back(view);
        if !nobody.is_empty() {
            free.retain(|partition| !nobody.contains(partition));
            owners.insert("".into(), nobody);
        }
    }
    let (min, extra) = shares(view.partitions, owners.len());
    let mine = owners.remove(me).map_or(0, |mine| mine.len());
    let max = min + usize::from(extra > 0 && mine >= min);
    let mut above = above(&owners, max);
    if mine >= max {
        return Vec::new();
    }
    if !is_greedy {
        let choice = free.choose(rng).or_else(|| above.choose(rng));
        return choice.map_or_else(Vec::new, |partition| vec![*partition]);
    }
    if is_rust {
        free.shuffle(rng);
        above.shuffle(rng);
    }
    // Go permutes only the first entries it is going to take, so everybody takes the same ones.
    free.extend(above);
    free.truncate(max - mine);
    free
}

/// Records with an empty owner that have not expired.
fn given_back(view: &View) -> Vec<Partition> {
    let records = view.records.iter();
    records
        .filter(|(_, blob)| blob.owner.is_none() && view.is_young(blob))
        .map(|(partition, _)| *partition)
        .collect()
}

fn above(owners: &BTreeMap<Arc<str>, Vec<Partition>>, max: usize) -> Vec<Partition> {
    let theirs = owners.values().filter(|theirs| theirs.len() > max);
    theirs.flatten().copied().collect()
}
