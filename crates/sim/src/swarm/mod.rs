//! Random faults against whole groups, and an oracle over what came of it.
//!
//! A seed stands for a group, its work and a list of faults. A run goes through the phases *start*, *chaos* (the
//! faults), *heal* (all faults over: everything must find its place in bounded time), *calm* (nothing may move),
//! *drain* (everything must be processed and checkpointed) and *stop*.

mod group;
mod oracle;
mod plan;
mod run;
mod shrink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

pub use oracle::Violation;
pub use run::{Report, Request, run};
pub use shrink::shrink;

use self::plan::Plan;
use crate::bugs::Bug;
use crate::seed::Seed;

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: Seed,
    /// What it broke.
    pub violation: Violation,
}

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Seconds of virtual time.
    pub seconds: u64,
    /// Handler calls.
    pub calls: u64,
    /// Handler calls for events that had been processed before.
    pub duplicates: u64,
    /// Partitions taken from live owners.
    pub moves: u64,
    /// Longest time that a displaced reader went on, in milliseconds, and in which run.
    pub longest_overlap: (u64, u64),
    /// What was broken, by seed.
    pub failures: Vec<Failure>,
}

impl Summary {
    /// How often each promise was broken.
    #[must_use]
    pub fn by_rule(&self) -> BTreeMap<&'static str, usize> {
        let mut rules = BTreeMap::new();
        for failure in &self.failures {
            *rules.entry(failure.violation.rule).or_default() += 1;
        }
        rules
    }
}

/// Runs `count` seeds from `first` on all cores, until `max_failures` have failed.
///
/// # Errors
///
/// If there is no runtime.
pub fn swarm(first: u64, count: u64, bug: Option<Bug>, max_failures: usize) -> io::Result<Summary> {
    let next = Mutex::new(first);
    let summary = Mutex::new(Summary::default());
    let cores = thread::available_parallelism()?.get();
    let work = || -> io::Result<()> {
        loop {
            let seed = {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                let seed = *next;
                *next += 1;
                seed
            };
            if seed >= first + count {
                return Ok(());
            }
            let report = run(&Request {
                seed: Seed(seed),
                faults: None,
                bug,
                is_traced: false,
            })?;
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.seeds += 1;
            summary.seconds += report.seconds;
            summary.calls += report.calls;
            summary.duplicates += report.duplicates;
            summary.moves += report.moves;
            summary.longest_overlap = summary.longest_overlap.max((report.longest_overlap, seed));
            let failure = report.violation.map(|violation| Failure {
                seed: Seed(seed),
                violation,
            });
            summary.failures.extend(failure);
            if summary.failures.len() >= max_failures {
                return Ok(());
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort_by_key(|failure| failure.seed.0);
    Ok(summary)
}

/// What a seed stands for, line by line.
#[must_use]
pub fn describe(seed: Seed) -> Vec<String> {
    let plan = Plan::new(seed);
    let options = &plan.options;
    let mut lines = vec![format!(
        "{} partitions, {} of ours ({:?}, interval {:?}, expiration {:?}, stop {:?}), an event per {} ms, handler up \
         to {} ms, checkpoint every {}, chaos {} ms",
        plan.partitions,
        plan.slots,
        options.load_balancing_strategy,
        options.load_balancing_interval,
        options.partition_ownership_expiration,
        options.shutdown_timeout,
        plan.append_ms,
        plan.handler_ms.1,
        plan.checkpoint_every,
        plan.chaos_ms,
    )];
    for peer in &plan.peers {
        lines.push(format!("peer {}, clock {:+} ms", peer.kind, peer.skew_ms));
    }
    for (number, fault) in plan.faults.iter().enumerate() {
        lines.push(format!("fault {number}: {fault}"));
    }
    lines
}

/// The command that repeats a run.
#[must_use]
pub fn repro(seed: Seed, faults: Option<&BTreeSet<usize>>, bug: Option<Bug>) -> String {
    let mut command = format!("sim run --seed {:#x}", seed.0);
    if let Some(faults) = faults {
        let numbers: Vec<String> = faults.iter().map(ToString::to_string).collect();
        command += &format!(" --faults {}", numbers.join(","));
    }
    if let Some(bug) = bug {
        let name = clap::ValueEnum::to_possible_value(&bug);
        let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
        command += &format!(" --bug {name}");
    }
    command
}
