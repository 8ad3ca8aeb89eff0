//! The simulator's command line.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventhubs_processor::ProcessorOptions;
use eventhubs_sim::bugs::Bug;
use eventhubs_sim::peers::{PeerKind, Sdk};
use eventhubs_sim::scenario::{self, Scenario, Subject, TableRequest};
use eventhubs_sim::seed::Seed;
use eventhubs_sim::swarm::{self, Request};

/// Simulates groups of event processors in virtual time.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the scenarios and prints them next to the models of the other SDKs and the bar.
    Table {
        /// Which scenarios; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        scenario: Vec<Scenario>,
        /// Partition counts.
        #[arg(long, value_delimiter = ',', default_values_t = [32, 128, 1024])]
        n: Vec<u32>,
        /// Runs of each; the median and the worst are printed.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// Leave out the other SDKs.
        #[arg(long)]
        ours_only: bool,
        /// Add the SDKs' greedy strategies where they are not the default.
        #[arg(long)]
        greedy: bool,
    },
    /// Runs random groups under random faults and checks their histories.
    Swarm {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0, value_parser = number)]
        from: u64,
        /// A bug to plant.
        #[arg(long, value_enum)]
        bug: Option<Bug>,
        /// Stop after so many failures.
        #[arg(long, default_value_t = 10)]
        failures: usize,
    },
    /// Repeats one run.
    Run {
        /// The seed.
        #[arg(long, value_parser = number)]
        seed: u64,
        /// Numbers of the faults that happen; an empty list for none; all if left out.
        #[arg(long)]
        faults: Option<String>,
        /// A bug to plant.
        #[arg(long, value_enum)]
        bug: Option<Bug>,
        /// Print everything that happened.
        #[arg(long)]
        trace: bool,
    },
    /// Plants every bug and tells how many seeds it takes to notice it.
    Bugs {
        /// Most seeds for each.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
    },
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing else is left to do if the terminal is gone, too.
            let _ = io::Write::write_all(&mut io::stderr(), format!("sim: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> io::Result<ExitCode> {
    match command {
        Command::Table {
            scenario,
            n,
            seeds,
            ours_only,
            greedy,
        } => {
            let mut subjects = if ours_only {
                vec![Subject::Ours]
            } else {
                TableRequest::everybody()
            };
            if greedy {
                let others = [Sdk::Java, Sdk::Js, Sdk::Go, Sdk::Rust];
                subjects.extend(others.map(|sdk| {
                    Subject::Peer(PeerKind {
                        sdk,
                        is_greedy: true,
                    })
                }));
            }
            let scenarios = if scenario.is_empty() {
                Scenario::ALL.to_vec()
            } else {
                scenario
            };
            let request = TableRequest {
                scenarios,
                partitions: n,
                seeds,
                subjects,
                options: ProcessorOptions::default(),
            };
            scenario::print(&request, &mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Swarm {
            seeds,
            from,
            bug,
            failures,
        } => swarm(from, seeds, bug, failures),
        Command::Run {
            seed,
            faults,
            bug,
            trace,
        } => {
            let numbers = faults.map(|list| {
                let numbers = list.split(',').map(str::trim);
                numbers.filter_map(|number| number.parse().ok()).collect()
            });
            run(&Request {
                seed: Seed(seed),
                faults: numbers,
                bug,
                is_traced: trace,
            })
        }
        Command::Bugs { seeds } => bugs(seeds),
    }
}

fn swarm(from: u64, seeds: u64, bug: Option<Bug>, failures: usize) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let summary = swarm::swarm(from, seeds, bug, failures)?;
    writeln!(
        out,
        "{} seeds, {} virtual hours, {} handler calls, {} of them again, {} moves, longest overlap {} ms (seed {:#x})",
        summary.seeds,
        summary.seconds / 3600,
        summary.calls,
        summary.duplicates,
        summary.moves,
        summary.longest_overlap.0,
        summary.longest_overlap.1,
    )?;
    for (rule, count) in summary.by_rule() {
        writeln!(out, "{count:>6} times {rule}")?;
    }
    for failure in &summary.failures {
        writeln!(out, "{:#x}: {}", failure.seed.0, failure.violation)?;
        let request = Request {
            seed: failure.seed,
            faults: None,
            bug,
            is_traced: false,
        };
        let faults = swarm::shrink(&request, failure.violation.rule)?;
        writeln!(
            out,
            "    {}",
            swarm::repro(failure.seed, Some(&faults), bug)
        )?;
    }
    Ok(if summary.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(request: &Request) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for line in swarm::describe(request.seed) {
        writeln!(out, "{line}")?;
    }
    let report = swarm::run(request)?;
    for line in &report.trace {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "{} virtual seconds, {} handler calls, {} of them again, {} moves, longest overlap {} ms, trace hash {:016x}",
        report.seconds,
        report.calls,
        report.duplicates,
        report.moves,
        report.longest_overlap,
        report.hash
    )?;
    match report.violation {
        None => {
            writeln!(out, "ok")?;
            Ok(ExitCode::SUCCESS)
        }
        Some(violation) => {
            writeln!(out, "{violation}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn bugs(seeds: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut code = ExitCode::SUCCESS;
    for bug in Bug::ALL {
        let summary = swarm::swarm(0, seeds, Some(bug), 1)?;
        match summary.failures.first() {
            Some(failure) => writeln!(
                out,
                "{bug:?}: noticed after {} seeds by {:#x}: {}",
                summary.seeds, failure.seed.0, failure.violation
            )?,
            None => {
                writeln!(out, "{bug:?}: NOT noticed in {seeds} seeds")?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
