//! The simulator's command line.

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventhubs_processor::ProcessorOptions;
use eventhubs_sim::peers::{PeerKind, Sdk};
use eventhubs_sim::scenario::{self, Scenario, Subject, TableRequest};

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
    }
}
