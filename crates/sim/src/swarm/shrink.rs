//! Makes a failing run small: which faults does it need?

use std::collections::BTreeSet;
use std::io;

use super::plan::Plan;
use super::run::{Request, run};

/// Tries a smaller set this often: a run that depends on chance from elsewhere fails only sometimes.
const TRIES: usize = 2;

/// Leaves out as many faults as possible while the run still breaks the same promise. Delta debugging.
///
/// # Errors
///
/// If there is no runtime.
pub fn shrink(request: &Request, rule: &str) -> io::Result<BTreeSet<usize>> {
    let count = Plan::new(request.seed).faults.len();
    let mut kept: Vec<usize> = request.faults.clone().map_or_else(
        || (0..count).collect(),
        |faults| faults.into_iter().collect(),
    );
    let mut pieces = 2;
    while !kept.is_empty() {
        let size = kept.len().div_ceil(pieces);
        let mut is_smaller = false;
        for start in (0..kept.len()).step_by(size) {
            let rest: Vec<usize> =
                [&kept[..start], &kept[(start + size).min(kept.len())..]].concat();
            if fails(request, &rest, rule)? {
                kept = rest;
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
    Ok(kept.into_iter().collect())
}

fn fails(request: &Request, faults: &[usize], rule: &str) -> io::Result<bool> {
    for _ in 0..TRIES {
        let smaller = Request {
            faults: Some(faults.iter().copied().collect()),
            ..request.clone()
        };
        let violation = run(&smaller)?.violation;
        if violation.is_some_and(|violation| violation.rule == rule) {
            return Ok(true);
        }
    }
    Ok(false)
}
