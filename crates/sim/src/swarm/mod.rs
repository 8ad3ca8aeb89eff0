//! Random faults against whole groups, and an oracle over what came of it.
//!
//! A seed stands for a group, its work and a list of faults. A run goes through the phases *start*, *chaos* (the
//! faults), *heal* (all faults over: everything must find its place in bounded time), *calm* (nothing may move),
//! *drain* (everything must be processed and checkpointed) and *stop*.

mod fault;
mod group;
mod mishaps;
mod oracle;
mod plan;
mod run;
mod shrink;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use oracle::Violation;
pub use plan::Cuts;
pub use run::{Report, Request, run};
pub use shrink::shrink;

use self::plan::Plan;
use crate::bugs::Bug;
use crate::marks::Marks;
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
    /// Longest time that nobody read a partition while all was well, in milliseconds, and in which run.
    pub longest_takeover: (u64, u64),
    /// Most owner changes of a partition after the faults, and in which run.
    pub most_changes: (u32, u64),
    /// Checkpoints of ours that replaced a later one, and in how many runs.
    pub regressions: (u64, u64),
    /// The same, of the models of other SDKs.
    pub foreign_regressions: (u64, u64),
    /// What was reached.
    pub marks: Marks,
    /// What was broken, by seed.
    pub failures: Vec<Failure>,
}

impl Summary {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.seconds += report.seconds;
        self.calls += report.calls;
        self.duplicates += report.duplicates;
        self.moves += report.moves;
        self.longest_overlap = self.longest_overlap.max((report.longest_overlap, seed));
        self.longest_takeover = self.longest_takeover.max((report.longest_takeover, seed));
        self.most_changes = self.most_changes.max((report.most_changes, seed));
        for (sum, count) in [
            (&mut self.regressions, report.regressions),
            (&mut self.foreign_regressions, report.foreign_regressions),
        ] {
            sum.0 += count;
            sum.1 += u64::from(count > 0);
        }
        self.marks.add(&report.marks);
        let failure = report.violation.map(|violation| Failure {
            seed: Seed(seed),
            violation,
        });
        self.failures.extend(failure);
    }

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

/// Many seeds.
#[derive(Clone, Copy, Debug)]
pub struct SwarmRequest {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Whether a checkpoint that moves back is counted and does not end its run.
    pub measures_only: bool,
    /// Ends after so many failures.
    pub max_failures: usize,
}

/// How far many seeds are.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Seeds that were run.
    pub done: u64,
    /// Failures so far.
    pub failures: usize,
    /// The oldest seed under way, and for how long it has been.
    pub oldest: Option<(u64, Duration)>,
}

/// What the threads of a swarm share.
#[derive(Debug)]
struct Board {
    next: u64,
    running: BTreeMap<u64, Instant>,
    workers: usize,
    summary: Summary,
}

/// Runs seeds on all cores, one at a time on each, until they are through, `stop` is set or too many have failed.
/// Calls `progress` every second.
///
/// # Errors
///
/// If there is no runtime.
pub fn swarm(
    request: &SwarmRequest,
    stop: &AtomicBool,
    mut progress: impl FnMut(&Progress),
) -> io::Result<Summary> {
    let cores = thread::available_parallelism()?.get();
    let board = Mutex::new(Board {
        next: request.first,
        running: BTreeMap::new(),
        workers: cores,
        summary: Summary::default(),
    });
    let ended = Condvar::new();
    thread::scope(|scope| {
        let work = || {
            let result = work(request, stop, &board);
            lock(&board).workers -= 1;
            ended.notify_all();
            result
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut state = lock(&board);
        while state.workers > 0 {
            let waited = ended.wait_timeout(state, Duration::from_secs(1));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let oldest = state.running.iter().min_by_key(|(_, since)| **since);
            progress(&Progress {
                done: state.summary.seeds,
                failures: state.summary.failures.len(),
                oldest: oldest.map(|(seed, since)| (*seed, since.elapsed())),
            });
        }
        drop(state);
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut summary = board.summary;
    summary.failures.sort_by_key(|failure| failure.seed.0);
    Ok(summary)
}

fn work(request: &SwarmRequest, stop: &AtomicBool, board: &Mutex<Board>) -> io::Result<()> {
    loop {
        let seed = {
            let mut board = lock(board);
            let seed = board.next;
            let is_over = seed >= request.first.saturating_add(request.count)
                || board.summary.failures.len() >= request.max_failures
                || stop.load(Ordering::Relaxed);
            if is_over {
                return Ok(());
            }
            board.next += 1;
            board.running.insert(seed, Instant::now());
            seed
        };
        let one = Request {
            seed: Seed(seed),
            bug: request.bug,
            measures_only: request.measures_only,
            ..Request::default()
        };
        // What brings the simulator down is a finding about its seed and no end of the others.
        let report = catch_unwind(AssertUnwindSafe(|| run(&one)));
        let mut board = lock(board);
        board.running.remove(&seed);
        match report {
            Ok(report) => board.summary.add(seed, report?),
            Err(_) => {
                board.summary.seeds += 1;
                board.summary.failures.push(Failure {
                    seed: Seed(seed),
                    violation: Violation {
                        rule: "panic",
                        at: 0,
                        what: "the run panicked".to_owned(),
                    },
                });
            }
        }
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run stands for, line by line.
#[must_use]
pub fn describe(request: &Request) -> Vec<String> {
    let mut plan = Plan::new(request.seed);
    plan.cut(request.cuts);
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
pub fn repro(request: &Request) -> String {
    let mut command = format!("sim run --seed {:#x}", request.seed.0);
    if let Some(faults) = &request.faults {
        let numbers: Vec<String> = faults.iter().map(ToString::to_string).collect();
        command += &format!(" --faults '{}'", numbers.join(","));
    }
    let cuts = request.cuts;
    let options = [
        ("partitions", cuts.partitions.map(u64::from)),
        ("slots", cuts.slots.map(|slots| slots as u64)),
        ("peers", cuts.peers.map(|peers| peers as u64)),
        ("chaos-ms", cuts.chaos_ms),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            command += &format!(" --{name} {value}");
        }
    }
    if let Some(bug) = request.bug {
        let name = clap::ValueEnum::to_possible_value(&bug);
        let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
        command += &format!(" --bug {name}");
    }
    command
}
