//! A few seeds on every run of the tests; `sim swarm` runs as many as one has time for.

#![allow(clippy::expect_used, reason = "a test may panic, in its helpers too")]

use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::thread;

use eventhubs_sim::bugs::Bug;
use eventhubs_sim::seed::Seed;
use eventhubs_sim::swarm::{self, Request, Summary, SwarmRequest};

fn request(seed: u64) -> Request {
    Request {
        seed: Seed(seed),
        is_traced: true,
        ..Request::default()
    }
}

fn swarm(count: u64, bug: Option<Bug>) -> Summary {
    let request = SwarmRequest {
        first: 0,
        count,
        bug,
        measures_only: false,
        max_failures: 1,
    };
    let stop = AtomicBool::new(false);
    swarm::swarm(&request, &stop, |_| {}).expect("a runtime")
}

#[test]
fn forty_seeds_keep_every_promise() {
    let summary = swarm(40, None);
    let failures: Vec<String> = summary
        .failures
        .iter()
        .map(|failure| {
            let repro = swarm::repro(&request(failure.seed.0));
            format!("{repro}: {}", failure.violation)
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(summary.calls > 10_000, "the runs did something");
}

#[test]
fn runs_that_failed_once_do_not_fail_again() {
    let lines = include_str!("../regressions.txt").lines();
    let runs = lines.filter_map(|line| line.split('#').next());
    let runs: Vec<_> = runs.filter(|run| !run.is_empty()).collect();
    assert!(runs.len() > 10, "{runs:?}");
    let share = runs
        .len()
        .div_ceil(thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        for runs in runs.chunks(share) {
            scope.spawn(|| runs.iter().for_each(|arguments| does_not_fail(arguments)));
        }
    });
}

fn does_not_fail(arguments: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.arg("run").args(arguments.split_whitespace());
    let output = command.output().expect("the simulator starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.lines().last();
    assert!(output.status.success(), "{arguments}: {verdict:?}");
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "a minute without optimization; `sim bugs` does the same"
)]
fn every_planted_bug_is_noticed_within_two_hundred_seeds() {
    for bug in Bug::ALL {
        let summary = swarm(200, Some(*bug));
        assert!(!summary.failures.is_empty(), "{bug:?}");
    }
}

/// Nothing in a run depends on addresses, threads, the process or the system's clock. `sim meta` does it for more.
#[test]
fn the_same_seed_in_two_processes_has_the_same_trace() {
    let trace = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
        command.args(["run", "--trace", "--seed", "7"]);
        command.output().unwrap().stdout
    };
    let first = trace();
    assert!(first.len() > 100_000, "{} bytes", first.len());
    assert!(first == trace(), "the traces differ");
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in 0..5 {
        let (first, second) = (
            swarm::run(&request(seed)).unwrap(),
            swarm::run(&request(seed)).unwrap(),
        );
        let difference = first
            .trace
            .iter()
            .zip(&second.trace)
            .find(|(first, second)| first != second);
        assert_eq!(difference, None, "seed {seed:#x}");
        assert_eq!(first.hash, second.hash, "seed {seed:#x}");
    }
}
