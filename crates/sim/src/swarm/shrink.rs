//! Makes a failing run small: which faults does it need, and how much of the group?

use std::io;

use super::plan::{Cuts, Plan};
use super::run::{Request, run};

/// The smallest run found that breaks the same promise: first without the faults it does not need, by delta debugging,
/// then with fewer partitions, processors and minutes.
///
/// # Errors
///
/// If there is no runtime.
pub fn shrink(request: &Request, rule: &str) -> io::Result<Request> {
    let mut best = request.clone();
    let count = Plan::new(request.seed).faults.len();
    let mut kept: Vec<usize> = request.faults.clone().map_or_else(
        || (0..count).collect(),
        |faults| faults.into_iter().collect(),
    );
    best.faults = Some(kept.iter().copied().collect());
    let mut pieces = 2;
    while !kept.is_empty() {
        let size = kept.len().div_ceil(pieces);
        let mut is_smaller = false;
        for start in (0..kept.len()).step_by(size) {
            let rest: Vec<usize> =
                [&kept[..start], &kept[(start + size).min(kept.len())..]].concat();
            let smaller = Request {
                faults: Some(rest.iter().copied().collect()),
                ..best.clone()
            };
            if fails(&smaller, rule)? {
                (best, kept) = (smaller, rest);
                pieces = (pieces - 1).max(2);
                is_smaller = true;
                break;
            }
        }
        if !is_smaller {
            if size == 1 {
                break;
            }
            pieces = (pieces * 2).min(kept.len());
        }
    }
    shrink_workload(best, rule)
}

fn shrink_workload(mut best: Request, rule: &str) -> io::Result<Request> {
    let plan = Plan::new(best.seed);
    let peers = (0..plan.peers.len()).map(|peers| Cuts {
        peers: Some(peers),
        ..Cuts::default()
    });
    let slots = (1..plan.slots).map(|slots| Cuts {
        slots: Some(slots),
        ..Cuts::default()
    });
    let sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32].into_iter();
    let partitions = sizes
        .filter(|size| *size < plan.partitions)
        .map(|partitions| Cuts {
            partitions: Some(partitions),
            ..Cuts::default()
        });
    let times = [10_000, 30_000, 60_000, 120_000].into_iter();
    let chaos = times
        .filter(|time| *time < plan.chaos_ms)
        .map(|chaos_ms| Cuts {
            chaos_ms: Some(chaos_ms),
            ..Cuts::default()
        });
    // Of each kind the smallest that will do; one kind after the other.
    for candidates in [
        peers.collect::<Vec<_>>(),
        slots.collect(),
        partitions.collect(),
        chaos.collect(),
    ] {
        for cuts in candidates {
            let smaller = Request {
                cuts: best.cuts.and(cuts),
                ..best.clone()
            };
            if fails(&smaller, rule)? {
                best = smaller;
                break;
            }
        }
    }
    Ok(best)
}

fn fails(request: &Request, rule: &str) -> io::Result<bool> {
    let violation = run(request)?.violation;
    Ok(violation.is_some_and(|violation| violation.rule == rule))
}
