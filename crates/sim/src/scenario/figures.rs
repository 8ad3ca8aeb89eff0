//! Figures to compare with: what the other SDKs' algorithms did in the study behind this crate's, and the bar.

use super::{Metric, Scenario, Subject};
use crate::peers::Sdk;

/// Figures for 32, 128 and 1024 partitions; NaN: not published or never reached.
type Row = [f64; 3];

const NONE: f64 = f64::NAN;

/// The published median.
pub(super) fn published(
    scenario: Scenario,
    metric: Metric,
    subject: Subject,
    partitions: u32,
) -> Option<f64> {
    let Subject::Peer(kind) = subject else {
        return None;
    };
    let rows = sdk_rows(scenario, metric)?;
    let sdk = Sdk::ALL.iter().position(|sdk| *sdk == kind.sdk)?;
    if kind != kind.sdk.with_defaults() {
        return greedy(scenario, metric, kind.sdk).and_then(|row| pick(row, partitions));
    }
    pick(rows[sdk], partitions)
}

/// What ours is held to.
pub(super) fn bar(scenario: Scenario, metric: Metric, partitions: u32) -> Option<f64> {
    let row = match (scenario, metric) {
        (Scenario::Cold1, Metric::Full) => [1.0, 1.0, 2.0],
        (Scenario::Cold10, Metric::Full) => [1.5, 1.5, 2.5],
        (Scenario::Cold10, Metric::Balanced) => [6.0, 12.0, 20.0],
        (Scenario::ScaleUp, Metric::Balanced) => [10.0, 14.0, 22.0],
        // 1.2 and 1.05 times the minimum of 28, 115 and 921.
        (Scenario::ScaleUp, Metric::Moves) => [33.6, 120.8, 967.1],
        (Scenario::Crash, Metric::Gap) => [32.0; 3],
        (Scenario::ScaleUp | Scenario::ScaleDown | Scenario::Rolling, Metric::Gap) => [1.0; 3],
        (Scenario::ScaleUp | Scenario::ScaleDown | Scenario::Rolling, Metric::Duplicates) => {
            [0.0; 3]
        }
        (Scenario::Steady, Metric::Ops) => [135.0, 350.0, 2150.0],
        (Scenario::Economy, Metric::Ops) => [84.0, 276.0, 2068.0],
        (
            Scenario::Steady
            | Scenario::Economy
            | Scenario::Skew75
            | Scenario::Skew200
            | Scenario::Slow
            | Scenario::Down
            | Scenario::Mixed,
            Metric::Moves,
        ) => [0.0; 3],
        _ => return None,
    };
    pick(row, partitions)
}

fn pick(row: Row, partitions: u32) -> Option<f64> {
    let value = match partitions {
        32 => row[0],
        128 => row[1],
        1024 => row[2],
        _ => return None,
    };
    (!value.is_nan()).then_some(value)
}

/// In the order of [`Sdk::ALL`]: .NET, Java, Python, JS, Go, Rust.
fn sdk_rows(scenario: Scenario, metric: Metric) -> Option<[Row; 6]> {
    Some(match (scenario, metric) {
        (Scenario::Cold1, Metric::Full) => [
            [7.0, 89.0, 5310.0],
            [932.0, 3818.0, 30772.0],
            [0.2, 0.2, 0.2],
            [310.0, 1270.0, 10236.0],
            [326.0, 1434.0, 16006.0],
            [936.0, 3897.0, 35990.0],
        ],
        (Scenario::Cold10, Metric::Full) => [
            [1.4, 32.0, 62.0],
            [92.0, 453.0, 3640.0],
            [0.4, 0.4, 0.4],
            [31.0, 122.0, 1021.0],
            [30.0, 132.0, 1143.0],
            [91.0, 363.0, 3181.0],
        ],
        (Scenario::Cold10, Metric::Balanced) => [
            [2.2, 33.0, 62.0],
            [92.0, 453.0, 3640.0],
            [NONE, NONE, NONE],
            [31.0, 122.0, 1021.0],
            [30.0, 132.0, 1151.0],
            [91.0, 363.0, 3214.0],
        ],
        (Scenario::Cold10, Metric::Moves) => [
            [15.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
            [27.0, 108.0, 918.0],
            [1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 2.0],
        ],
        (Scenario::ScaleUp, Metric::Balanced) => [
            [5.0, 33.0, 95.0],
            [92.0, 366.0, 3103.0],
            [NONE, NONE, NONE],
            [30.0, 124.0, 1023.0],
            [31.0, 133.0, 1207.0],
            [91.0, 366.0, 3277.0],
        ],
        (Scenario::ScaleUp, Metric::Moves) => [
            [49.0, 132.0, 921.0],
            [28.0, 115.0, 921.0],
            [27.0, 108.0, 918.0],
            [28.0, 115.0, 921.0],
            [28.0, 116.0, 930.0],
            [28.0, 115.0, 930.0],
        ],
        (Scenario::Crash, Metric::Gap) => [
            [142.0, 130.0, 166.0],
            [133.0, 251.0, 1420.0],
            [193.0, 198.0, 200.0],
            [64.0, 110.0, 495.0],
            [68.0, 112.0, 575.0],
            [81.0, 214.0, 1456.0],
        ],
        (Scenario::Crash, Metric::PartitionSeconds) => [
            [1152.0, 4500.0, 41000.0],
            [1150.0, 6500.0, 231_000.0],
            [1642.0, 6400.0, 56000.0],
            [550.0, 3100.0, 84000.0],
            [592.0, 3100.0, 95000.0],
            [553.0, 4400.0, 220_000.0],
        ],
        (Scenario::Rolling, Metric::Gap) => [
            [10.4, 11.7, 192.0],
            [252.0, 851.0, 4102.0],
            [10.2, 18.0, 23.0],
            [15.0, 130.0, 1500.0],
            [6.8, 55.0, 1563.0],
            [85.0, 611.0, 3518.0],
        ],
        (Scenario::Steady, Metric::Ops) => [
            [84.0, 276.0, 2068.0],
            [84.0, 276.0, 2068.0],
            [77.0, 251.0, 1882.0],
            [252.0, 828.0, 6204.0],
            [239.0, 776.0, 5322.0],
            [104.0, 281.0, 2030.0],
        ],
        (Scenario::Skew75, Metric::Moves) => {
            [0.0, 0.0, 0.0, 311.0, 387.0, 138.0].map(|moves| [moves, NONE, NONE])
        }
        (Scenario::Skew200, Metric::Moves) => {
            [3297.0, 107.0, 1001.0, NONE, NONE, NONE].map(|moves| [moves, NONE, NONE])
        }
        (Scenario::Slow, Metric::Moves) => {
            [0.0, 0.0, 0.0, 82.0, 116.0, 109.0].map(|moves| [NONE, NONE, moves])
        }
        (Scenario::Down, Metric::Moves) => {
            [53.0, 8.0, 224.0, 10.0, NONE, NONE].map(|moves| [NONE, moves, NONE])
        }
        _ => return None,
    })
}

fn greedy(scenario: Scenario, metric: Metric, sdk: Sdk) -> Option<Row> {
    Some(match (scenario, metric, sdk) {
        (Scenario::Cold1, Metric::Full, Sdk::Java) => [2.4, 7.5, NONE],
        (Scenario::Cold1, Metric::Full, Sdk::Js) => [1.3, 4.8, 47.0],
        (Scenario::Cold1, Metric::Full, Sdk::Go) => [0.5, 1.5, 10.5],
        (Scenario::Cold1, Metric::Full, Sdk::Rust) => [0.5, 1.5, NONE],
        (Scenario::ScaleUp, Metric::Balanced, Sdk::Java) => [6.3, 6.6, NONE],
        (Scenario::ScaleUp, Metric::Balanced, Sdk::Js) => [5.1, 12.6, 35.0],
        (Scenario::ScaleUp, Metric::Balanced, Sdk::Go) => [24.0, 72.0, 381.0],
        (Scenario::Crash, Metric::Gap, Sdk::Js) => [66.0, 70.0, 86.0],
        (Scenario::Crash, Metric::Gap, Sdk::Go) => [67.0, 70.0, 93.0],
        _ => return None,
    })
}
