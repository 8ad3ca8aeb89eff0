//! Runs what was asked for and prints how it went.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventhubs_sim::bugs::Bug;
use eventhubs_sim::marks::Mark;
use eventhubs_sim::swarm::{self, Failure, Progress, Request, Summary, SwarmRequest};
use tokio::sync::oneshot;

/// So many seeds must have reached every mark.
const SEEDS_FOR_MARKS: u64 = 1000;

pub(crate) fn swarm(request: &SwarmRequest, prints_marks: bool) -> io::Result<ExitCode> {
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let mut line = ProgressLine::new(request.count);
    let summary = until_interrupted(&stop, || {
        swarm::swarm(request, &stop, |progress| line.show(progress))
    })?;
    line.clear();
    let mut out = io::stdout().lock();
    print_summary(&mut out, &summary, begun.elapsed())?;
    if prints_marks {
        for mark in Mark::ALL {
            writeln!(out, "{:>9} {}", summary.marks.count(*mark), mark.text())?;
        }
    }
    let is_interrupted = stop.load(Ordering::Relaxed);
    for failure in &summary.failures {
        print_failure(&mut out, request, failure, !is_interrupted)?;
    }
    let missing = summary.marks.missing();
    let has_all = missing.is_empty() || request.bug.is_some() || summary.seeds < SEEDS_FOR_MARKS;
    if !has_all {
        for mark in missing {
            writeln!(out, "never reached: {}", mark.text())?;
        }
    }
    Ok(if is_interrupted {
        ExitCode::from(130)
    } else if summary.failures.is_empty() && has_all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_summary(out: &mut impl io::Write, summary: &Summary, took: Duration) -> io::Result<()> {
    let seeds = summary.seeds;
    #[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
    let rate = seeds as f64 / took.as_secs_f64().max(0.001);
    writeln!(
        out,
        "{seeds} seeds in {:.1} s ({rate:.1} a second), {} virtual hours, {} handler calls, {} of them again, {} moves",
        took.as_secs_f64(),
        summary.seconds / 3600,
        summary.calls,
        summary.duplicates,
        summary.moves,
    )?;
    writeln!(
        out,
        "longest overlap {} ms (seed {:#x}), longest takeover {} ms (seed {:#x}), most changes after the faults {} \
         (seed {:#x})",
        summary.longest_overlap.0,
        summary.longest_overlap.1,
        summary.longest_takeover.0,
        summary.longest_takeover.1,
        summary.most_changes.0,
        summary.most_changes.1,
    )?;
    writeln!(
        out,
        "checkpoint regressions by us in {seeds} seeds: {} (in {} seeds); by the models of other SDKs: {} (in {} seeds)",
        summary.regressions.0,
        summary.regressions.1,
        summary.foreign_regressions.0,
        summary.foreign_regressions.1,
    )?;
    writeln!(
        out,
        "marks reached: {} of {}",
        Mark::ALL.len() - summary.marks.missing().len(),
        Mark::ALL.len()
    )?;
    for (rule, count) in summary.by_rule() {
        writeln!(out, "{count:>6} times {rule}")?;
    }
    writeln!(out, "failures: {}", summary.failures.len())
}

fn print_failure(
    out: &mut impl io::Write,
    request: &SwarmRequest,
    failure: &Failure,
    shrinks: bool,
) -> io::Result<()> {
    writeln!(out, "{:#x}: {}", failure.seed.0, failure.violation)?;
    let mut smallest = Request {
        seed: failure.seed,
        bug: request.bug,
        ..Request::default()
    };
    if shrinks && failure.violation.rule != "panic" {
        smallest = swarm::shrink(&smallest, failure.violation.rule)?;
    }
    writeln!(out, "    {}", swarm::repro(&smallest))?;
    out.flush()
}

pub(crate) fn run(request: &Request) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for line in swarm::describe(request) {
        writeln!(out, "{line}")?;
    }
    let report = swarm::run(request)?;
    for line in &report.trace {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "{} virtual seconds, {} handler calls, {} of them again, {} moves, longest overlap {} ms, longest takeover {} \
         ms, trace hash {:016x}",
        report.seconds,
        report.calls,
        report.duplicates,
        report.moves,
        report.longest_overlap,
        report.longest_takeover,
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

pub(crate) fn bugs(seeds: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut code = ExitCode::SUCCESS;
    let stop = AtomicBool::new(false);
    for bug in Bug::ALL {
        let request = SwarmRequest {
            first: 0,
            count: seeds,
            bug: Some(*bug),
            measures_only: false,
            max_failures: 1,
        };
        let summary = until_interrupted(&stop, || swarm::swarm(&request, &stop, |_| {}))?;
        if stop.load(Ordering::Relaxed) {
            return Ok(ExitCode::from(130));
        }
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

/// Runs every hundredth seed in two processes.
pub(crate) fn meta(from: u64, seeds: u64, every: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let program = std::env::current_exe()?;
    let trace = |seed: u64| {
        let mut command = Command::new(&program);
        command.args(["run", "--trace", "--seed", &seed.to_string()]);
        command.output().map(|output| output.stdout)
    };
    let (mut count, mut bytes, mut differ) = (0, 0, 0);
    let step = usize::try_from(every.max(1)).unwrap_or(usize::MAX);
    for seed in (from..from.saturating_add(seeds)).step_by(step) {
        let (first, second) = (trace(seed)?, trace(seed)?);
        count += 1;
        bytes += first.len();
        if first != second || first.is_empty() {
            differ += 1;
            let lines = first.split(|byte| *byte == b'\n');
            let place = lines
                .zip(second.split(|byte| *byte == b'\n'))
                .position(|(first, second)| first != second);
            writeln!(
                out,
                "{seed:#x}: two processes differ from line {place:?} on"
            )?;
        }
    }
    writeln!(
        out,
        "{count} seeds in two processes each, {bytes} bytes of trace, {differ} seeds differ"
    )?;
    Ok(if differ == 0 && count > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sets `stop` when the user interrupts while `work` is under way.
fn until_interrupted<T>(stop: &AtomicBool, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::scope(|scope| {
        let (done, is_done) = oneshot::channel::<()>();
        scope.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    Ok(()) = tokio::signal::ctrl_c() => stop.store(true, Ordering::Relaxed),
                    _ = is_done => {}
                }
            });
        });
        let result = work();
        drop(done);
        result
    })
}

/// One line on the terminal that is written again and again, or one every ten seconds in a log.
#[derive(Debug)]
struct ProgressLine {
    total: u64,
    begun: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl ProgressLine {
    fn new(total: u64) -> Self {
        Self {
            total,
            begun: Instant::now(),
            shown: None,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, progress: &Progress) {
        let pause = Duration::from_secs(if self.is_terminal { 1 } else { 10 });
        let is_early = |shown: Instant| shown.elapsed() < pause;
        if self.shown.is_some_and(is_early) || self.begun.elapsed() < pause {
            return;
        }
        self.shown = Some(Instant::now());
        let took = self.begun.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
        let (done, total) = (progress.done as f64, self.total as f64);
        let rate = done / took;
        let left = (total - done) / rate.max(0.001);
        let mut text = format!(
            "{done} of {total} seeds, {rate:.1} a second, {left:.0} s left, {} failures",
            progress.failures
        );
        if let Some((seed, since)) = progress.oldest
            && since >= Duration::from_secs(30)
        {
            text += &format!(
                "; seed {seed:#x} has been running for {} s",
                since.as_secs()
            );
        }
        let (begin, end) = if self.is_terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        // Nothing is lost with the progress if the terminal is gone.
        let _ = write!(io::stderr(), "{begin}{text}{end}");
    }

    fn clear(&self) {
        if self.is_terminal && self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
