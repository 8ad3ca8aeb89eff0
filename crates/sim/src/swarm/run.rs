//! One run: start, chaos, heal, calm, drain, stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;

use super::fault::FaultKind;
use super::group::Group;
use super::oracle::{Bounds, Oracle, Violation};
use super::plan::{Cuts, Plan};
use crate::bugs::Bug;
use crate::history::{Happening, Time};
use crate::marks::Marks;
use crate::ours::suspect_time;
use crate::scenario::Replay;
use crate::seed::Seed;
use crate::store::{DEADLINE, LATEST};
use crate::tracer::Tracer;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Equal for equal histories.
    pub hash: u64,
    /// Handler calls.
    pub calls: u64,
    /// Handler calls for events that had been processed before.
    pub duplicates: u64,
    /// Partitions taken from live owners.
    pub moves: u64,
    /// Longest time that a displaced reader went on, in milliseconds.
    pub longest_overlap: u64,
    /// Longest time that nobody read a partition while all was well, in milliseconds.
    pub longest_takeover: u64,
    /// Most owner changes of a partition after the faults.
    pub most_changes: u32,
    /// Checkpoints of ours that replaced a later one.
    pub regressions: u64,
    /// The same, of the models of other SDKs.
    pub foreign_regressions: u64,
    /// What was reached.
    pub marks: Marks,
    /// Seconds of virtual time.
    pub seconds: u64,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Where all chance comes from.
    pub seed: Seed,
    /// Which faults of the plan happen; all if `None`.
    pub faults: Option<BTreeSet<usize>>,
    /// Upper limits on the rest of the plan.
    pub cuts: Cuts,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Whether a checkpoint that moves back is counted and does not end the run.
    pub measures_only: bool,
    /// Whether to keep a trace.
    pub is_traced: bool,
}

/// Runs one seed in a runtime of its own.
///
/// # Errors
///
/// If there is no runtime.
pub fn run(request: &Request) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(play(request)))
}

async fn play(request: &Request) -> Report {
    let mut plan = Plan::new(request.seed);
    plan.cut(request.cuts);
    let mut run = Run::new(request, plan);
    // The runtime has one thread, so that everything of this run logs here.
    let _listens = tracing::subscriber::set_default(Tracer::new(run.group.world.clone()));
    let result = run.phases(request).await;
    let violation = result.err();
    let mut marks = run.group.world.marks();
    marks.add(&run.oracle.marks);
    let history = run.group.world.take_history();
    let trace = if request.is_traced {
        let records = history.records().iter();
        records
            .map(|(at, happening)| format!("{at:>8} {happening:?}"))
            .collect()
    } else {
        Vec::new()
    };
    Report {
        violation,
        hash: history.hash(),
        calls: run.oracle.calls_made,
        duplicates: run.oracle.duplicates,
        moves: run.oracle.moves,
        longest_overlap: run.oracle.longest_overlap,
        longest_takeover: run.oracle.longest_takeover(),
        most_changes: run.oracle.most_changes,
        regressions: run.oracle.regressions,
        foreign_regressions: run.oracle.foreign_regressions,
        marks,
        seconds: run.group.world.now() / 1000,
        trace,
    }
}

#[derive(Debug)]
struct Run {
    plan: Plan,
    group: Group,
    oracle: Oracle,
    next_append: BTreeMap<u32, Time>,
    workload: rand::rngs::StdRng,
    is_appending: bool,
    next_tick: Time,
}

const SECOND: Time = 1000;

/// Before the first fault.
const START: Time = 20 * SECOND;

/// Processing what has piled up, at most: the longest back-off and the last listing that shows a loss are in it.
const DRAIN: Time = 180 * SECOND;

/// Expiry and interval of the slowest peer, Python, and the restart of one whose loop has ended.
const SLOWEST_PEER: Time = 226 * SECOND;

/// A processor asks for the partitions of the event hub this seldom.
const PARTITIONS_TTL: Time = 60 * SECOND;

/// How long a foreign batch may take to end after its link was stolen.
const REPAIR: Time = 30 * SECOND;

impl Run {
    fn new(request: &Request, plan: Plan) -> Self {
        let interval = millis(plan.options.load_balancing_interval);
        let suspect = millis(suspect_time(&plan.options));
        let expiration = millis(plan.options.partition_ownership_expiration);
        let bounds = Bounds {
            overlap: 2 * interval + 12 * SECOND,
            shutdown_timeout: millis(plan.options.shutdown_timeout),
            suspect,
            expiration,
            takeover: if plan.peers.is_empty() {
                suspect
            } else {
                expiration.max(SLOWEST_PEER) + suspect
            } + 3 * interval
                + 13 * SECOND
                + plan.one_by_one(interval),
            late: if plan.may_be_late() { LATEST } else { 0 },
            measures_only: request.measures_only,
        };
        Self {
            group: Group::new(request.seed, &plan, request.bug),
            oracle: Oracle::new(bounds),
            next_append: BTreeMap::new(),
            workload: request.seed.stream("appends", 0),
            is_appending: true,
            next_tick: 0,
            plan,
        }
    }

    async fn phases(&mut self, request: &Request) -> Result<(), Violation> {
        self.phase("start");
        if let Err(error) = self.group.start().await {
            return Err(self.violation("setup", error.to_string()));
        }
        self.pass(START).await?;
        self.phase("chaos");
        self.chaos(request).await?;
        self.phase("heal");
        if let Err(error) = self.group.heal() {
            return Err(self.violation("setup", error.to_string()));
        }
        self.converge().await?;
        let is_alone = self.plan.peers.is_empty();
        if is_alone {
            self.phase("calm");
            let interval = millis(self.plan.options.load_balancing_interval);
            self.pass(6 * interval).await?;
            self.phase("drain");
        } else {
            self.phase("mixed drain");
        }
        self.drain().await?;
        self.phase("stop");
        self.group.stop().await;
        self.look()
    }

    async fn chaos(&mut self, request: &Request) -> Result<(), Violation> {
        let begin = self.group.world.now();
        let mut agenda = Vec::new();
        for (number, fault) in self.plan.faults.iter().enumerate() {
            let happens = request.faults.as_ref();
            let happens = happens.is_none_or(|faults| faults.contains(&number));
            if happens && self.plan.has_room_for(*fault) {
                agenda.push((begin + fault.at, number, Some(*fault)));
                agenda.push((begin + fault.at + fault.lasts, number, None));
            }
        }
        agenda.sort_by_key(|(at, number, _)| (*at, *number));
        for (at, number, fault) in agenda {
            let now = self.group.world.now();
            self.pass(at.saturating_sub(now)).await?;
            let done = match fault {
                Some(fault) => self.group.begin_fault(number, fault),
                None => self.group.end_fault(number),
            };
            if let Err(error) = done {
                return Err(self.violation("setup", error.to_string()));
            }
        }
        let end = begin + self.plan.chaos_ms;
        let now = self.group.world.now();
        self.pass(end.saturating_sub(now)).await
    }

    /// G15: in bounded time every partition is read, and if we are alone the loads are equal.
    async fn converge(&mut self) -> Result<(), Violation> {
        let options = &self.plan.options;
        let own = millis(options.partition_ownership_expiration + options.load_balancing_interval);
        let is_alone = self.plan.peers.is_empty();
        // The slowest peer, and the restart of one whose loop has ended.
        let bound = if is_alone {
            3 * own
        } else {
            3 * own.max(SLOWEST_PEER)
        } + PARTITIONS_TTL;
        if self.plan.may_be_late() {
            self.pass(LATEST + 5 * SECOND).await?;
        } else if self
            .plan
            .faults
            .iter()
            .any(|fault| is_noticed_late(fault.kind))
        {
            // Requests that got lost just before are waited for, and hold up whoever sent them. What an operator wrote
            // just before is noticed with the next listing, and may be taken for a namesake's.
            let interval = millis(self.plan.options.load_balancing_interval);
            self.pass(DEADLINE + interval).await?;
        }
        let deadline = self.group.world.now() + bound;
        loop {
            self.pass(SECOND).await?;
            let mut replay = Replay::new(self.group.hub.partitions());
            self.group
                .world
                .with_history(|history| replay.advance(history.records()));
            let is_well = replay.is_covered()
                && (!is_alone || replay.is_balanced())
                && self.group.world.is_complete();
            if is_well && !self.group.is_stopping() {
                return Ok(());
            }
            if self.group.world.now() >= deadline {
                let what = format!(
                    "{bound} ms after the last fault: all read {}, balanced {}, spread {}",
                    replay.is_covered(),
                    replay.is_balanced(),
                    replay.spread()
                );
                return Err(self.violation("G15 convergence", what));
            }
        }
    }

    /// O7: everything appended is processed, and the last checkpoint is the last event.
    async fn drain(&mut self) -> Result<(), Violation> {
        self.is_appending = false;
        {
            let mut settings = self.group.behaviour.settings();
            settings.checkpoint_every = settings.checkpoint_every.map(|_| 1);
            settings.max_ms = settings.max_ms.min(5);
        }
        for partition in 0..self.group.hub.partitions() {
            self.group.hub.append(partition);
        }
        let begin = self.group.world.now();
        let deadline = begin + DRAIN;
        let mut next_repair = begin + REPAIR;
        loop {
            self.pass(SECOND).await?;
            let behind = self.oracle.behind();
            let newest = self.oracle.newest();
            let stored = self.group.store.checkpoints_now();
            if behind.is_empty() && stored == newest {
                return Ok(());
            }
            let now = self.group.world.now();
            if now >= next_repair && !self.plan.peers.is_empty() {
                // A foreign batch that was in hand when its link was stolen has moved the checkpoint back. The owner
                // puts that right with its next checkpoint, and not before.
                for (partition, newest) in newest {
                    if stored.get(&partition).is_none_or(|stored| *stored < newest) {
                        self.group.hub.append(partition);
                    }
                }
                next_repair = now + REPAIR;
            } else if now >= deadline {
                let what = format!(
                    "not processed: {behind:?}; checkpoints {stored:?}, events up to {newest:?}"
                );
                return Err(self.violation("O7 completeness", what));
            }
        }
    }

    /// Lets time pass, appends events and checks what happens.
    async fn pass(&mut self, milliseconds: Time) -> Result<(), Violation> {
        let end = self.group.world.now() + milliseconds;
        loop {
            self.look()?;
            let now = self.group.world.now();
            if now >= end {
                return Ok(());
            }
            if now >= self.next_tick {
                self.group.tick();
                self.next_tick = now + SECOND;
            }
            let wake = (now + SECOND).min(end).min(self.append_due(now));
            tokio::time::sleep(Duration::from_millis(wake - now)).await;
        }
    }

    /// Appends what is due; returns when the next is.
    fn append_due(&mut self, now: Time) -> Time {
        if !self.is_appending {
            return Time::MAX;
        }
        let mean = self.plan.append_ms;
        let mut next = Time::MAX;
        for partition in 0..self.group.hub.partitions() {
            let rng = &mut self.workload;
            let due = self
                .next_append
                .entry(partition)
                .or_insert_with(|| now + rng.random_range(1..=2 * mean));
            if *due <= now {
                self.group.hub.append(partition);
                *due = now + rng.random_range(1..=2 * mean);
            }
            next = next.min(*due);
        }
        next
    }

    fn look(&mut self) -> Result<(), Violation> {
        let Self { group, oracle, .. } = self;
        group
            .world
            .with_history(|history| oracle.advance(history.records()))
    }

    fn phase(&self, name: &'static str) {
        self.group.world.note(Happening::Phase { name });
    }

    fn violation(&self, rule: &'static str, what: String) -> Violation {
        Violation {
            rule,
            at: self.group.world.now(),
            what,
        }
    }
}

/// Whether what a fault did may be noticed only after it is over.
fn is_noticed_late(kind: FaultKind) -> bool {
    !kind.is_fair() || matches!(kind, FaultKind::Touched { .. })
}

fn millis(duration: Duration) -> Time {
    u64::try_from(duration.as_millis()).unwrap_or(Time::MAX)
}
