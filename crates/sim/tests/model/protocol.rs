//! States, steps and promises.

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// How checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointRule {
    /// On the version that was read, and after a refusal both the version and the number are read again.
    CasMax,
    /// On the version that was read, and after a refusal only the version is.
    NaiveCas,
    Unconditional,
}

/// How often what nobody controls may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) claims: u8,
    pub(crate) lapses: u8,
    pub(crate) crashes: u8,
    pub(crate) writes: u8,
    pub(crate) foreign_writes: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) processors: usize,
    pub(crate) partitions: usize,
    pub(crate) events: u8,
    pub(crate) checkpoints: CheckpointRule,
    /// Whether who takes a partition from a live owner waits to be told, or for that owner's lapse.
    pub(crate) heirs_wait: bool,
    /// Whether a renewal of one record leaves the others without a lease after a lapse.
    pub(crate) lapse_voids_records: bool,
    /// Whether a partition is given back only after its handler has finished.
    pub(crate) handlers_finish_first: bool,
    pub(crate) budget: Budget,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    partitions: Vec<Partition>,
    processors: Vec<Processor>,
    /// Checkpoints on their way.
    flight: BTreeSet<Write>,
    budget: Budget,
    has_regressed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Partition {
    /// How many events the stored checkpoint covers, and its version.
    register: u8,
    version: u8,
    /// How many events have been processed by anybody.
    done: u8,
    owner: Option<usize>,
    /// Whether the owner before has written the owner's name again.
    is_told: bool,
    /// Whose receiver is attached: one at a time, the last wins.
    link: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Processor {
    /// Whether it has shown life lately. If not, others may take everything, and it knows.
    has_lease: bool,
    is_up: bool,
    terms: Vec<Term>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Term {
    #[default]
    None,
    /// The record is ours. If it was taken from a live owner, somebody may still be at work.
    Waiting {
        from: Option<usize>,
        /// The record has been written since the last lapse.
        is_renewed: bool,
    },
    Running(Running),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Running {
    done: u8,
    /// What is known of the stored checkpoint.
    known: u8,
    version: u8,
    is_in_call: bool,
    /// It has been seen that the partition is somebody else's: no other call.
    is_over: bool,
    /// The record has been written since the last lapse.
    is_renewed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Write {
    /// `None`: a foreign processor.
    by: Option<usize>,
    partition: usize,
    covers: u8,
    /// `None`: without a condition.
    version: Option<u8>,
    /// It has arrived once.
    is_copy: bool,
}

/// A processor and a partition.
type Pair = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Takes a partition that is nobody's, or whose owner has lapsed.
    Claim(Pair),
    /// Takes a partition from a live owner, or from one that is leaving.
    Steal(Pair),
    Begin(Pair),
    Call(Pair),
    Return(Pair),
    Checkpoint(Pair),
    /// Reads the checkpoint again: after a refusal, or when no reply came.
    Reread(Pair),
    /// Reads the record, or loses a renewal.
    Notice(Pair),
    GiveBack(Pair),
    Renew(Pair),
    Lapse(usize),
    Crash(usize),
    /// The write arrives; the flags: its reply does, and it is not on its way a second time.
    Arrive(Write, bool, bool),
    GetLost(Write),
    ForeignWrite {
        partition: usize,
        covers: u8,
    },
}

impl Term {
    fn is_renewed(&mut self) -> Option<&mut bool> {
        match self {
            Self::None => None,
            Self::Waiting { is_renewed, .. } | Self::Running(Running { is_renewed, .. }) => {
                Some(is_renewed)
            }
        }
    }
}

impl State {
    fn term(&self, (processor, partition): Pair) -> Term {
        self.processors[processor].terms[partition]
    }

    fn set_term(&mut self, (processor, partition): Pair, term: Term) {
        self.processors[processor].terms[partition] = term;
    }

    fn running(&self, pair: Pair) -> Option<Running> {
        match self.term(pair) {
            Term::Running(running) => Some(running),
            _ => None,
        }
    }

    fn has_proof(&self, pair: Pair, model: &Protocol) -> bool {
        let (processor, partition) = pair;
        let is_renewed = self
            .running(pair)
            .is_some_and(|running| running.is_renewed || !model.lapse_voids_records);
        let has_lease = self.processors[processor].has_lease && is_renewed;
        has_lease || self.partitions[partition].link == Some(processor)
    }

    /// Whether the next event may be handed to the handler, or is being handled by leave of an earlier proof that
    /// nobody could rely on to be over.
    fn may_dispatch(&self, pair: Pair, model: &Protocol) -> bool {
        self.running(pair)
            .is_some_and(|running| !running.is_over && self.has_proof(pair, model))
    }

    /// Whether a processor has lapsed, or knows that the partition is not its own.
    fn is_past(&self, pair: Pair) -> bool {
        let is_silent = !self.processors[pair.0].has_lease;
        is_silent || self.running(pair).is_none_or(|running| running.is_over)
    }
}

impl Protocol {
    /// What the patience of an heir, or the silence that makes an owner dead, comes to: nobody has written the record
    /// for so long that everybody else has looked at it since, or lapsed.
    fn have_all_looked(&self, state: &State, (me, partition): Pair) -> bool {
        let mut others = (0..self.processors).filter(|other| *other != me);
        others.all(|other| state.is_past((other, partition)))
    }

    fn pairs(&self) -> impl Iterator<Item = Pair> + use<> {
        let partitions = self.partitions;
        (0..self.processors)
            .flat_map(move |processor| (0..partitions).map(move |partition| (processor, partition)))
    }

    fn steps_of(&self, state: &State, pair: Pair, steps: &mut Vec<Step>) {
        let (me, partition) = pair;
        if !state.processors[me].is_up {
            return;
        }
        let record = &state.partitions[partition];
        match state.term(pair) {
            Term::None if state.budget.claims > 0 => match record.owner {
                Some(owner) if owner != me && state.processors[owner].has_lease => {
                    steps.push(Step::Steal(pair));
                }
                Some(owner) if owner != me && !self.have_all_looked(state, pair) => {}
                _ => steps.push(Step::Claim(pair)),
            },
            Term::None => {}
            Term::Waiting { from, .. } => {
                let may_begin = !self.heirs_wait
                    || from.is_none()
                    || record.is_told
                    || self.have_all_looked(state, pair);
                if record.owner != Some(me) {
                    steps.push(Step::Notice(pair));
                } else if may_begin {
                    steps.push(Step::Begin(pair));
                }
            }
            Term::Running(running) => {
                self.steps_of_term(state, pair, running, steps);
            }
        }
        if record.owner == Some(me) {
            steps.push(Step::Renew(pair));
        }
    }

    fn steps_of_term(&self, state: &State, pair: Pair, running: Running, steps: &mut Vec<Step>) {
        let (me, partition) = pair;
        let record = &state.partitions[partition];
        if running.is_in_call {
            steps.push(Step::Return(pair));
        } else if running.done < self.events && state.may_dispatch(pair, self) {
            steps.push(Step::Call(pair));
        }
        let has_write = state
            .flight
            .iter()
            .any(|write| write.by == Some(me) && write.partition == partition);
        if running.done > running.known
            && !has_write
            && !running.is_over
            && state.budget.writes > 0
            && state.has_proof(pair, self)
        {
            steps.push(Step::Checkpoint(pair));
        }
        if running.version != record.version {
            steps.push(Step::Reread(pair));
        }
        if record.owner != Some(me) {
            steps.push(Step::Notice(pair));
        } else if !running.is_in_call || !self.handlers_finish_first {
            steps.push(Step::GiveBack(pair));
        }
    }

    /// A term that is over and has nothing left to do: the heir is told.
    fn end_if_done(state: &mut State, pair: Pair) {
        if let Term::Running(running) = state.term(pair)
            && running.is_over
            && !running.is_in_call
        {
            state.set_term(pair, Term::None);
            let record = &mut state.partitions[pair.1];
            let owner = record.owner.map(|owner| &state.processors[owner]);
            let heir = owner.map(|owner| owner.terms[pair.1]);
            // Somebody else's heir does not wait for us.
            record.is_told |=
                matches!(heir, Some(Term::Waiting { from, .. }) if from == Some(pair.0));
        }
    }

    fn arrive(&self, state: &mut State, write: Write, is_answered: bool) {
        let record = &mut state.partitions[write.partition];
        let is_applied = write
            .version
            .is_none_or(|version| version == record.version);
        if is_applied {
            state.has_regressed |= write.by.is_some() && write.covers < record.register;
            (record.register, record.version) = (write.covers, record.version + 1);
        }
        let (register, version) = (record.register, record.version);
        if let Some(by) = write.by.filter(|_| is_answered) {
            let pair = (by, write.partition);
            if let Term::Running(running) = state.term(pair) {
                let known = match (is_applied, self.checkpoints) {
                    (true, _) => write.covers,
                    (false, CheckpointRule::CasMax) => register,
                    (false, _) => running.known,
                };
                let running = Running {
                    known,
                    version,
                    ..running
                };
                state.set_term(pair, Term::Running(running));
            }
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let processor = Processor {
            has_lease: false,
            is_up: true,
            terms: vec![Term::None; self.partitions],
        };
        vec![State {
            partitions: vec![Partition::default(); self.partitions],
            processors: vec![processor; self.processors],
            flight: BTreeSet::new(),
            budget: self.budget,
            has_regressed: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for pair in self.pairs() {
            self.steps_of(state, pair, steps);
        }
        for (number, processor) in state.processors.iter().enumerate() {
            if processor.has_lease && state.budget.lapses > 0 {
                steps.push(Step::Lapse(number));
            }
            if processor.is_up && processor.has_lease && state.budget.crashes > 0 {
                steps.push(Step::Crash(number));
            }
        }
        for write in &state.flight {
            steps.push(Step::GetLost(*write));
            for is_answered in [false, true] {
                steps.push(Step::Arrive(*write, is_answered, true));
                if !write.is_copy {
                    steps.push(Step::Arrive(*write, is_answered, false));
                }
            }
        }
        if state.budget.foreign_writes > 0 {
            for (partition, record) in state.partitions.iter().enumerate() {
                for covers in 0..=record.done {
                    steps.push(Step::ForeignWrite { partition, covers });
                }
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Claim(pair) | Step::Steal(pair) => {
                let (me, partition) = pair;
                // Who has lapsed has no right left to the record: nobody waits for him.
                let is_steal = matches!(step, Step::Steal(_));
                let from = state.partitions[partition].owner.filter(|_| is_steal);
                let record = &mut state.partitions[partition];
                (record.owner, record.is_told) = (Some(me), false);
                state.budget.claims -= 1;
                state.processors[me].has_lease = true;
                let is_renewed = true;
                state.set_term(pair, Term::Waiting { from, is_renewed });
            }
            Step::Begin(pair) => {
                let Term::Waiting { is_renewed, .. } = state.term(pair) else {
                    return None;
                };
                let record = &mut state.partitions[pair.1];
                record.link = Some(pair.0);
                let running = Running {
                    done: record.register,
                    known: record.register,
                    version: record.version,
                    is_in_call: false,
                    is_over: false,
                    is_renewed,
                };
                state.set_term(pair, Term::Running(running));
            }
            Step::Call(pair) => {
                let running = state.running(pair)?;
                let is_in_call = true;
                state.set_term(
                    pair,
                    Term::Running(Running {
                        is_in_call,
                        ..running
                    }),
                );
            }
            Step::Return(pair) => {
                let running = state.running(pair)?;
                let done = running.done + 1;
                let record = &mut state.partitions[pair.1];
                record.done = record.done.max(done);
                let running = Running {
                    done,
                    is_in_call: false,
                    ..running
                };
                state.set_term(pair, Term::Running(running));
                Self::end_if_done(&mut state, pair);
            }
            Step::Checkpoint(pair) => {
                let running = state.running(pair)?;
                state.budget.writes -= 1;
                let is_conditional = self.checkpoints != CheckpointRule::Unconditional;
                state.flight.insert(Write {
                    by: Some(pair.0),
                    partition: pair.1,
                    covers: running.done,
                    version: is_conditional.then_some(running.version),
                    is_copy: false,
                });
            }
            Step::Reread(pair) => {
                let running = state.running(pair)?;
                let record = &state.partitions[pair.1];
                let known = match self.checkpoints {
                    CheckpointRule::CasMax => record.register,
                    _ => running.known,
                };
                let version = record.version;
                let running = Running {
                    known,
                    version,
                    ..running
                };
                state.set_term(pair, Term::Running(running));
            }
            Step::Notice(pair) => match state.term(pair) {
                Term::Running(running) => {
                    let is_over = true;
                    state.set_term(pair, Term::Running(Running { is_over, ..running }));
                    Self::end_if_done(&mut state, pair);
                }
                // Somebody took it while we waited for its former owner: so does he.
                _ => state.set_term(pair, Term::None),
            },
            Step::GiveBack(pair) => {
                state.partitions[pair.1].owner = None;
                if let Term::Running(running) = state.term(pair)
                    && running.is_in_call
                {
                    return Some(state);
                }
                state.set_term(pair, Term::None);
            }
            Step::Renew(pair) => {
                let (me, partition) = pair;
                let processor = &mut state.processors[me];
                processor.has_lease = true;
                if let Some(renewed) = processor.terms[partition].is_renewed() {
                    *renewed = true;
                }
            }
            Step::Lapse(processor) => {
                state.budget.lapses -= 1;
                state.processors[processor].has_lease = false;
                for term in &mut state.processors[processor].terms {
                    if let Some(renewed) = term.is_renewed() {
                        *renewed = false;
                    }
                }
            }
            Step::Crash(processor) => {
                state.budget.crashes -= 1;
                let dead = &mut state.processors[processor];
                dead.is_up = false;
                dead.terms.fill(Term::None);
            }
            Step::Arrive(write, is_answered, is_gone) => {
                self.arrive(&mut state, write, is_answered);
                state.flight.remove(&write);
                if !is_gone {
                    let is_copy = true;
                    state.flight.insert(Write { is_copy, ..write });
                }
            }
            Step::GetLost(write) => {
                state.flight.remove(&write);
            }
            Step::ForeignWrite { partition, covers } => {
                state.budget.foreign_writes -= 1;
                state.flight.insert(Write {
                    by: None,
                    partition,
                    covers,
                    version: None,
                    is_copy: false,
                });
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("our writes never lower a checkpoint", |_, state: &State| {
                !state.has_regressed
            }),
            Property::always(
                "everything up to the checkpoint is processed",
                |_, state: &State| {
                    let mut partitions = state.partitions.iter();
                    partitions.all(|partition| partition.register <= partition.done)
                },
            ),
            Property::always(
                "one processor at most may start a handler",
                |model: &Self, state: &State| {
                    (0..model.partitions).all(|partition| {
                        let pairs = (0..model.processors).map(|processor| (processor, partition));
                        pairs
                            .filter(|pair| state.may_dispatch(*pair, model))
                            .count()
                            <= 1
                    })
                },
            ),
        ]
    }
}
