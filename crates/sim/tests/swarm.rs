//! A few seeds on every run of the tests; `sim swarm` runs as many as one has time for.

use eventhubs_sim::bugs::Bug;
use eventhubs_sim::seed::Seed;
use eventhubs_sim::swarm::{self, Request};

fn request(seed: u64) -> Request {
    Request {
        seed: Seed(seed),
        faults: None,
        bug: None,
        is_traced: true,
    }
}

#[test]
fn forty_seeds_keep_every_promise() {
    let summary = swarm::swarm(0, 40, None, 1).expect("a runtime");
    let failures: Vec<String> = summary
        .failures
        .iter()
        .map(|failure| {
            let repro = swarm::repro(failure.seed, None, None);
            format!("{repro}: {}", failure.violation)
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(summary.calls > 10_000, "the runs did something");
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for line in include_str!("../regressions.txt").lines() {
        let Some(digits) = line.strip_prefix("0x") else {
            continue;
        };
        let digits = digits.split_whitespace().next().unwrap_or_default();
        let seed = u64::from_str_radix(digits, 16).unwrap();
        let report = swarm::run(&request(seed)).unwrap();
        assert_eq!(report.violation, None, "seed {seed:#x}");
    }
}

#[test]
fn every_planted_bug_is_noticed_within_two_hundred_seeds() {
    for bug in Bug::ALL {
        let summary = swarm::swarm(0, 200, Some(bug), 1).unwrap();
        assert!(!summary.failures.is_empty(), "{bug:?}");
    }
}

/// Two processes would show the same: nothing in a run depends on addresses, threads or the system's clock.
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
