//! The scenarios, step by step.

use std::collections::BTreeMap;

use eventhubs_processor::LoadBalancingProfile;
use rand::RngExt as _;

use super::group::{Group, Processor};
use super::{Case, Metric, Scenario, Subject};
use crate::history::Time;
use crate::peers::Sdk;
use crate::store::{Counts, Weather};

/// Figures of one run; a figure that was never reached is left out.
type Measured = BTreeMap<Metric, f64>;

const SECOND: Time = 1000;
const MINUTE: Time = 60 * SECOND;
const HOUR: Time = 60 * MINUTE;

/// Nothing changed for so long: nothing will.
const QUIET: Time = 200 * SECOND;

/// The slowest default, Rust on 1024 partitions, needs ten hours.
const LIMIT: Time = 14 * HOUR;

/// Runs one case in a runtime of its own.
///
/// # Errors
///
/// If there is no runtime.
pub fn run(case: &Case) -> std::io::Result<BTreeMap<Metric, f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(measure(case)))
}

async fn measure(case: &Case) -> Measured {
    let mut options = case.options.clone();
    if case.scenario == Scenario::Economy {
        options.set_load_balancing_profile(LoadBalancingProfile::Economy);
    }
    let mut run = Run {
        group: Group::new(case.seed, case.partitions, &options),
        processors: Vec::new(),
        case,
        counts_before: Counts::default(),
    };
    match case.scenario {
        Scenario::Cold1 => {
            run.start(1, 0, 0).await;
            run.group.settle(QUIET, LIMIT).await;
            run.processors.clear();
            run.cold_figures()
        }
        Scenario::Cold10 => {
            run.start(10, 2 * SECOND, 0).await;
            run.group.settle(QUIET, LIMIT).await;
            run.figures()
        }
        Scenario::ScaleUp => {
            run.start(1, 0, 0).await;
            run.group.settle(QUIET, LIMIT).await;
            run.begin();
            let load = run.group.load();
            run.start(9, 5 * SECOND, 0).await;
            run.group.settle(QUIET, LIMIT).await;
            load.abort();
            run.figures()
        }
        Scenario::ScaleDown => {
            run.ten_settled().await;
            run.begin();
            let load = run.group.load();
            for processor in run.processors.drain(..9) {
                processor.stop().await;
                run.group.sleep(10 * SECOND).await;
            }
            run.group.settle(QUIET, LIMIT).await;
            load.abort();
            run.figures()
        }
        Scenario::Crash => {
            run.ten_settled().await;
            run.begin();
            for processor in run.processors.drain(..3) {
                processor.crash();
            }
            run.group.settle(QUIET, LIMIT).await;
            run.figures()
        }
        Scenario::Rolling => run.rolling().await,
        Scenario::Steady | Scenario::Economy => {
            run.ten_settled().await;
            run.begin();
            run.group.sleep(10 * MINUTE).await;
            run.figures()
        }
        Scenario::Skew75 => run.skew(75 * 1000).await,
        Scenario::Skew200 => run.skew(200 * 1000).await,
        Scenario::Slow => {
            run.ten_settled().await;
            run.begin();
            run.group.store.set_weather(Weather {
                slow: 80,
                ..Weather::default()
            });
            run.group.sleep(15 * MINUTE).await;
            run.figures()
        }
        Scenario::Down => {
            run.ten_settled().await;
            run.begin();
            run.group.store.set_weather(Weather {
                is_down: true,
                ..Weather::default()
            });
            run.group.sleep(3 * MINUTE).await;
            run.group.store.clear_weather();
            run.group.sleep(15 * MINUTE).await;
            run.figures()
        }
        Scenario::Mixed => run.mixed().await,
    }
}

#[derive(Debug)]
struct Run<'a> {
    group: Group,
    processors: Vec<Processor>,
    case: &'a Case,
    counts_before: Counts,
}

impl Run<'_> {
    /// Starts `count` processors within `jitter` milliseconds; the clock of the first is `skew_ms` ahead.
    async fn start(&mut self, count: usize, jitter: Time, skew_ms: i64) {
        let mut rng = self.case.seed.stream("starts", self.group.world.now());
        let mut starts: Vec<Time> = (0..count)
            .map(|_| {
                if jitter == 0 {
                    0
                } else {
                    rng.random_range(0..jitter)
                }
            })
            .collect();
        starts.sort_unstable();
        let begin = self.group.world.now();
        for (number, start) in starts.into_iter().enumerate() {
            let now = self.group.world.now();
            self.group.sleep((begin + start).saturating_sub(now)).await;
            let skew = if number == 0 { skew_ms } else { 0 };
            let processor = self.group.start(self.case.subject, skew);
            self.processors.extend(processor);
        }
    }

    async fn ten_settled(&mut self) {
        self.start(10, 2 * SECOND, 0).await;
        self.group.settle(QUIET, LIMIT).await;
    }

    fn begin(&mut self) {
        self.group.begin_window();
        self.counts_before = self.group.store.counts();
    }

    async fn skew(&mut self, skew_ms: i64) -> Measured {
        self.start(10, 2 * SECOND, skew_ms).await;
        self.group.sleep(5 * MINUTE).await;
        self.begin();
        self.group.sleep(30 * MINUTE).await;
        self.figures()
    }

    async fn rolling(&mut self) -> Measured {
        self.ten_settled().await;
        self.begin();
        let load = self.group.load();
        for _ in 0..10 {
            let round = self.group.world.now();
            let old = self.processors.remove(0);
            old.stop().await;
            self.group.sleep(10 * SECOND).await;
            let new = self.group.start(self.case.subject, 0);
            self.processors.extend(new);
            let spent = self.group.world.now() - round;
            self.group.sleep(MINUTE.saturating_sub(spent)).await;
        }
        load.abort();
        let last_start = self.group.world.now() - 50 * SECOND;
        self.group.settle(QUIET, LIMIT).await;
        let mut figures = self.figures();
        if let Some(balanced) = figures.get_mut(&Metric::Balanced) {
            // Since the last of them came back.
            *balanced = (*balanced
                - super::replay::seconds(last_start - self.group.replay.window()))
            .max(0.0);
        }
        figures
    }

    async fn mixed(&mut self) -> Measured {
        let peers = Sdk::ALL.map(|sdk| Subject::Peer(sdk.with_defaults()));
        for subject in peers.into_iter().chain([Subject::Ours; 4]) {
            let processor = self.group.start(subject, 0);
            self.processors.extend(processor);
            self.group.sleep(SECOND / 5).await;
        }
        self.group.sleep(30 * MINUTE).await;
        let full = self.group.replay.seconds_to_cover();
        let balanced = self.group.replay.seconds_to_balance();
        self.begin();
        self.group.sleep(30 * MINUTE).await;
        let mut figures = self.figures();
        for (metric, value) in [(Metric::Full, full), (Metric::Balanced, balanced)] {
            figures.remove(&metric);
            figures.extend(value.map(|value| (metric, value)));
        }
        figures
    }

    fn cold_figures(&mut self) -> Measured {
        let mut figures = self.figures();
        let ops = self.group.store.counts().billed();
        figures.insert(Metric::Ops, count(ops));
        figures
    }

    fn figures(&mut self) -> Measured {
        self.group.observe();
        let now = self.group.world.now();
        let replay = &self.group.replay;
        let (gap, sum) = replay.gaps(now);
        let minutes = super::replay::seconds(now - replay.window()) / 60.0;
        let ops = self.group.store.counts().billed() - self.counts_before.billed();
        let mut figures = Measured::from([
            (Metric::Moves, count(replay.moves)),
            (Metric::Changes, count(replay.changes)),
            (Metric::Duplicates, count(replay.duplicates)),
            (Metric::Gap, gap),
            (Metric::PartitionSeconds, sum),
            (Metric::Ops, count(ops) / minutes),
            (Metric::Spread, count(replay.spread() as u64)),
        ]);
        figures.extend(replay.seconds_to_cover().map(|value| (Metric::Full, value)));
        let balanced = replay.seconds_to_balance();
        figures.extend(balanced.map(|value| (Metric::Balanced, value)));
        figures
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "no run counts anywhere near 2^52 of anything"
)]
fn count(number: u64) -> f64 {
    number as f64
}
