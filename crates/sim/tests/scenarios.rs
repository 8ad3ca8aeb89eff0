//! The models of the other SDKs against the figures they are known by.

#![allow(clippy::expect_used, reason = "a test may panic, in its helpers too")]

use eventhubs_processor::ProcessorOptions;
use eventhubs_sim::peers::Sdk;
use eventhubs_sim::scenario::{Case, Metric, Scenario, Subject, run};
use eventhubs_sim::seed::Seed;

fn figure(scenario: Scenario, subject: Subject, metric: Metric) -> f64 {
    let case = Case {
        scenario,
        subject,
        partitions: 32,
        seed: Seed(7),
        options: ProcessorOptions::default(),
    };
    let figures = run(&case).expect("a runtime");
    figures.get(&metric).copied().unwrap_or(f64::INFINITY)
}

fn assert_near(scenario: Scenario, metric: Metric, published: [f64; 6]) {
    for (sdk, published) in Sdk::ALL.into_iter().zip(published) {
        let measured = figure(scenario, Subject::Peer(sdk.with_defaults()), metric);
        let is_near =
            measured == published || (measured - published).abs() <= published * 0.25 + 0.3;
        assert!(
            is_near,
            "{sdk:?} {scenario:?} {metric:?}: {measured}, published {published}"
        );
    }
}

#[test]
fn models_start_as_slowly_as_their_originals() {
    assert_near(
        Scenario::Cold1,
        Metric::Full,
        [7.0, 932.0, 0.2, 310.0, 326.0, 936.0],
    );
    assert_near(
        Scenario::ScaleUp,
        Metric::Balanced,
        [5.0, 92.0, f64::INFINITY, 30.0, 31.0, 91.0],
    );
}

#[test]
fn models_cost_as_much_as_their_originals() {
    assert_near(
        Scenario::Steady,
        Metric::Ops,
        [84.0, 84.0, 77.0, 252.0, 239.0, 104.0],
    );
}

#[test]
fn models_are_as_confused_by_a_wrong_clock_as_their_originals() {
    assert_near(
        Scenario::Skew75,
        Metric::Moves,
        [0.0, 0.0, 0.0, 311.0, 387.0, 138.0],
    );
}

#[test]
fn ours_meets_the_bar_where_it_does() {
    assert!(figure(Scenario::Cold1, Subject::Ours, Metric::Full) <= 1.0);
    assert!(figure(Scenario::Cold10, Subject::Ours, Metric::Full) <= 1.5);
    assert!(figure(Scenario::Cold10, Subject::Ours, Metric::Balanced) <= 6.0);
    assert!(figure(Scenario::ScaleUp, Subject::Ours, Metric::Balanced) <= 10.0);
    for scenario in [Scenario::Steady, Scenario::Skew200, Scenario::Slow] {
        let moves = figure(scenario, Subject::Ours, Metric::Moves);
        assert!(moves.abs() < 0.5, "{scenario:?}: {moves}");
    }
}
