//! What an event costs, here and in the other clients, side by side. `../run` builds and installs what it takes; see
//! `../README.md` for what the figures mean.

#![allow(clippy::print_stdout, reason = "a benchmark")]

mod clients;
mod measure;
mod process;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;

use clients::{CLIENTS, Client, Places};
use measure::{Load, Server, Times, load_average};
use report::{Results, thousands};

/// Runs event hub clients next to each other on the emulator and prints what an event costs each.
///
/// Progress goes to stderr, the tables to stdout.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; every client runs once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Clients, by comma. Default: all.
    #[arg(long, value_delimiter = ',', value_parser = client)]
    clients: Vec<&'static Client>,
    /// Partitions of the event hub, by comma.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 32])]
    partitions: Vec<u32>,
    /// Bytes of a body, by comma.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1024])]
    sizes: Vec<usize>,
    /// Leaves out the table of a handler that takes its time.
    #[arg(long)]
    no_slow_handler: bool,
    /// Time from the first event to the sample, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    settle_ms: u64,
    /// Time of a sample, in milliseconds.
    #[arg(long, default_value_t = 3_000)]
    sample_ms: u64,
    /// Memory for the events that the clients read. They have to last for the fastest of them.
    #[arg(long, default_value_t = 4_096)]
    backlog_mib: u64,
    /// Prints what has to be installed for these clients, and ends.
    #[arg(long, hide = true)]
    print_needs: bool,
    #[arg(long, hide = true, default_value = "benches/peers")]
    sources: PathBuf,
    #[arg(long, hide = true, default_value = "target/peers")]
    scratch: PathBuf,
    #[arg(long, hide = true, default_value = "target/interop/release")]
    rust: PathBuf,
    #[arg(long, hide = true, default_value = "target/tools/venv/bin/python")]
    python: PathBuf,
    #[arg(long, hide = true, default_value = "target/tools/js")]
    js: PathBuf,
}

fn client(name: &str) -> Result<&'static Client, String> {
    let found = CLIENTS.iter().find(|client| client.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
        format!("there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.clients.is_empty() {
        arguments.clients = CLIENTS.iter().collect();
    }
    if arguments.print_needs {
        let mut needs: Vec<&str> = arguments
            .clients
            .iter()
            .filter_map(|c| c.need.name())
            .collect();
        needs.dedup();
        println!("{}", needs.join(" "));
        return ExitCode::SUCCESS;
    }
    match compare(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    let programs = std::env::current_exe().map_err(|error| error.to_string())?;
    let places = Places {
        sources: arguments.sources.clone(),
        scratch: arguments.scratch.clone(),
        programs: programs.parent().ok_or("no directory")?.to_owned(),
        rust: arguments.rust.clone(),
        python: arguments.python.clone(),
        js: std::path::absolute(&arguments.js).map_err(|error| error.to_string())?,
    };
    std::fs::create_dir_all(&places.scratch).map_err(|error| error.to_string())?;
    let times = Times {
        settle: Duration::from_millis(arguments.settle_ms),
        sample: Duration::from_millis(arguments.sample_ms),
    };
    print_head(arguments, &places);
    let mut loads = Vec::new();
    for &partitions in &arguments.partitions {
        loads.extend(arguments.sizes.iter().map(|&size| Load {
            partitions,
            size,
            handler_ms: 0,
        }));
    }
    if !arguments.no_slow_handler {
        loads.push(Load::SLOW_HANDLER);
    }
    let mut averages = Vec::new();
    let mut failures = Vec::new();
    let has_clients = |load: &Load| arguments.clients.iter().any(|c| c.takes_part(load));
    for load in loads.into_iter().filter(has_clients) {
        let results = on_one_hub(
            arguments,
            &places,
            times,
            load,
            &mut averages,
            &mut failures,
        )?;
        println!("{}", results.table().trim_end());
    }
    averages.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (averages.first(), averages.last()) {
        println!("\nLoad average, this bench included: {least:.1} to {most:.1}.");
    }
    for failure in failures {
        println!("- {failure}");
    }
    Ok(())
}

fn on_one_hub<'a>(
    arguments: &Arguments,
    places: &Places,
    times: Times,
    load: Load,
    averages: &mut Vec<f64>,
    failures: &mut Vec<String>,
) -> Result<Results<'a>, String> {
    let what = load.to_string();
    eprint!("{what}: ");
    let before = Instant::now();
    let server = Server::start(places, load, arguments.backlog_mib)?;
    eprintln!("{} events in each, {:.0?}", server.events, before.elapsed());
    let mut results = Results {
        load,
        runs: arguments
            .clients
            .iter()
            .filter(|client| client.takes_part(&load))
            .map(|&client| (client, Vec::new()))
            .collect(),
    };
    for round in 1..=arguments.rounds {
        for (client, runs) in &mut results.runs {
            let line = format!(
                "{what}, round {round} of {}, {:16}",
                arguments.rounds, client.name
            );
            let ran = server.run(client, places, times);
            averages.extend(load_average());
            match &ran {
                Ok(figures) => eprintln!(
                    "{line} {:>8}/s {:>7.2} µs {:>5.0} MiB, first event after {:.0} ms",
                    thousands(figures.events_per_second),
                    figures.cpu_per_event_us,
                    figures.peak_rss_mib,
                    figures.first_event_ms,
                ),
                Err(error) => {
                    eprintln!("{line} failed: {error}");
                    failures.push(format!("{}, {what}, round {round}: {error}", client.name));
                }
            }
            runs.push(ran.ok());
        }
    }
    Ok(results)
}

/// When, where and with what.
fn print_head(arguments: &Arguments, places: &Places) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{}; {cpus} cores, {} {}; {}; {}; node {}. Rounds: {}, samples of {} s.\n",
        said("date", &["-u", "+%F %R UTC"]),
        said("uname", &["-s"]),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
        said(&places.python.to_string_lossy(), &["--version"]),
        said("node", &["--version"]),
        arguments.rounds,
        arguments.sample_ms as f64 / 1e3,
    );
    for client in &arguments.clients {
        println!("- {}: {}", client.title, client.how);
    }
}

/// The first line that a program prints; a dash if it is not there.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "–".to_owned())
}
