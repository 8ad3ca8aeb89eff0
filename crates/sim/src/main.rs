//! The simulator's command line.

mod report;

use std::io;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use eventhubs_processor::ProcessorOptions;
use eventhubs_sim::bugs::Bug;
use eventhubs_sim::peers::{PeerKind, Sdk};
use eventhubs_sim::scenario::{self, Scenario, Subject, TableRequest};
use eventhubs_sim::seed::Seed;
use eventhubs_sim::swarm::{Cuts, Request, SwarmRequest};

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
        /// Count checkpoints that move back instead of ending a run with the first.
        #[arg(long)]
        measure: bool,
        /// Stop after so many failures.
        #[arg(long, default_value_t = 10)]
        failures: usize,
        /// Print how often each mark was reached.
        #[arg(long)]
        marks: bool,
    },
    /// Repeats one run.
    Run(RunArguments),
    /// Runs seeds in two processes each and compares their traces byte by byte.
    Meta {
        /// How many seeds to cover.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0, value_parser = number)]
        from: u64,
        /// Every how many of them is run.
        #[arg(long, default_value_t = 100)]
        every: u64,
    },
    /// Plants every bug and tells how many seeds it takes to notice it.
    Bugs {
        /// Most seeds for each.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The seed.
    #[arg(long, value_parser = number)]
    seed: u64,
    /// Numbers of the faults that happen; an empty list for none; all if left out.
    #[arg(long)]
    faults: Option<String>,
    /// No more partitions than this at the start.
    #[arg(long)]
    partitions: Option<u32>,
    /// No more processors of ours.
    #[arg(long)]
    slots: Option<usize>,
    /// No more foreign ones.
    #[arg(long)]
    peers: Option<usize>,
    /// No longer under faults, in milliseconds.
    #[arg(long)]
    chaos_ms: Option<u64>,
    /// A bug to plant.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Print everything that happened.
    #[arg(long)]
    trace: bool,
}

impl RunArguments {
    fn request(self) -> Result<Request, io::Error> {
        let faults = self.faults.map(|list| {
            let numbers = list
                .split(',')
                .map(str::trim)
                .filter(|text| !text.is_empty());
            numbers.map(str::parse).collect::<Result<_, _>>()
        });
        Ok(Request {
            seed: Seed(self.seed),
            faults: faults.transpose().map_err(io::Error::other)?,
            cuts: Cuts {
                partitions: self.partitions,
                slots: self.slots,
                peers: self.peers,
                chaos_ms: self.chaos_ms,
            },
            bug: self.bug,
            is_traced: self.trace,
            ..Request::default()
        })
    }
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
            measure,
            failures,
            marks,
        } => {
            let request = SwarmRequest {
                first: from,
                count: seeds,
                bug,
                measures_only: measure,
                max_failures: failures,
            };
            report::swarm(&request, marks)
        }
        Command::Run(arguments) => report::run(&arguments.request()?),
        Command::Meta { seeds, from, every } => report::meta(from, seeds, every),
        Command::Bugs { seeds } => report::bugs(seeds),
    }
}
