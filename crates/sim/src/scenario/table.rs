//! The tables.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;

use eventhubs_processor::ProcessorOptions;

use super::{Case, Metric, Scenario, Subject, figures, run};
use crate::peers::Sdk;
use crate::seed::Seed;

/// Which tables to print.
#[derive(Clone, Debug)]
pub struct TableRequest {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// Partition counts.
    pub partitions: Vec<u32>,
    /// Runs of each.
    pub seeds: u64,
    /// Whose processors.
    pub subjects: Vec<Subject>,
    /// Options of our processors.
    pub options: ProcessorOptions,
}

impl TableRequest {
    /// Ours, then all models with their defaults.
    #[must_use]
    pub fn everybody() -> Vec<Subject> {
        let peers = Sdk::ALL.map(|sdk| Subject::Peer(sdk.with_defaults()));
        [Subject::Ours].into_iter().chain(peers).collect()
    }
}

type Key = (Scenario, Subject, u32);
type Results = BTreeMap<Key, Vec<BTreeMap<Metric, f64>>>;

/// Runs everything on all cores and prints a table for each scenario as soon as it is complete.
///
/// # Errors
///
/// If writing fails or there is no runtime.
pub fn print(request: &TableRequest, out: &mut impl Write) -> io::Result<()> {
    for scenario in &request.scenarios {
        let results = run_all(request, *scenario)?;
        writeln!(out, "## {scenario:?}")?;
        for metric in scenario.metrics() {
            print_metric(request, *scenario, *metric, &results, out)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn run_all(request: &TableRequest, scenario: Scenario) -> io::Result<Results> {
    let mut cases = Vec::new();
    for subject in &request.subjects {
        if scenario.is_ours_only() && *subject != Subject::Ours {
            continue;
        }
        for partitions in &request.partitions {
            for seed in 0..request.seeds {
                cases.push(Case {
                    scenario,
                    subject: *subject,
                    partitions: *partitions,
                    seed: Seed(seed + 1),
                    options: request.options.clone(),
                });
            }
        }
    }
    // The largest last in the list are taken first, so that no core waits long for another.
    let cases = Mutex::new(cases);
    let results = Mutex::new(Results::new());
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let work = || -> io::Result<()> {
            loop {
                let next = cases.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(case) = next else { return Ok(()) };
                let figures = run(&case)?;
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                let key = (case.scenario, case.subject, case.partitions);
                results.entry(key).or_default().push(figures);
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn print_metric(
    request: &TableRequest,
    scenario: Scenario,
    metric: Metric,
    results: &Results,
    out: &mut impl Write,
) -> io::Result<()> {
    write!(out, "{:<28}", metric.to_string())?;
    for partitions in &request.partitions {
        write!(out, "{:>26}", format!("N={partitions}"))?;
    }
    writeln!(out)?;
    for subject in &request.subjects {
        let cells: Vec<String> = request
            .partitions
            .iter()
            .map(|partitions| {
                let runs = results.get(&(scenario, *subject, *partitions))?;
                Some(cell(scenario, metric, *subject, *partitions, runs))
            })
            .map(Option::unwrap_or_default)
            .collect();
        if cells.iter().all(String::is_empty) {
            continue;
        }
        write!(out, "  {:<26}", subject.to_string())?;
        for cell in cells {
            write!(out, "{cell:>26}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// `median (worst)`, and what it is to be compared with.
fn cell(
    scenario: Scenario,
    metric: Metric,
    subject: Subject,
    partitions: u32,
    runs: &[BTreeMap<Metric, f64>],
) -> String {
    let mut values: Vec<f64> = runs
        .iter()
        .map(|run| run.get(&metric).copied().unwrap_or(f64::INFINITY))
        .collect();
    values.sort_by(f64::total_cmp);
    let median = values.get((values.len().max(1) - 1) / 2).copied();
    let (Some(median), Some(worst)) = (median, values.last().copied()) else {
        return String::new();
    };
    let mut cell = number(median);
    if number(worst) != cell {
        cell += &format!(" ({})", number(worst));
    }
    if subject == Subject::Ours {
        if let Some(bar) = figures::bar(scenario, metric, partitions) {
            let verdict = if median <= bar { "ok" } else { "OVER" };
            cell += &format!(" {verdict} {}", number(bar));
        }
    } else if let Some(published) = figures::published(scenario, metric, subject, partitions) {
        cell += &format!(" ~{}", number(published));
    }
    cell
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        "never".to_owned()
    } else if value < 100.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}
