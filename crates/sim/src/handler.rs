//! The application of our processors: works, fails and checkpoints as told, and writes down what it was asked to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventhubs_processor::{
    CheckpointError, CloseReason, EventHandler, EventParts, EventPosition, HandlerResult,
    PartitionContext, ProcessingError, ReceivedEvent,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::bugs::Bug;
use crate::gate::Gate;
use crate::history::{Happening, Member, Partition, TermId};
use crate::marks::Mark;
use crate::payload;
use crate::terms::Terms;
use crate::world::{World, partition_number};

/// What the application does, for all processors of a run. Changed while they run.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    shared: Arc<Mutex<Settings>>,
}

/// The settings of now. Rates are in thousandths.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
    pub(crate) errors: u32,
    pub(crate) panics: u32,
    /// Calls that do not return while this is not zero.
    pub(crate) hangs: u32,
    /// Events between two checkpoints; `None` leaves them to the processor.
    pub(crate) checkpoint_every: Option<i64>,
    /// Whether events come in batches, all of which count as delivered.
    pub(crate) has_batches: bool,
    pub(crate) chance: StdRng,
}

impl Behaviour {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Mutex::new(settings)),
        }
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one call goes.
struct Call {
    time: Duration,
    end: End,
    is_checkpointed: bool,
    probes_ahead: bool,
}

#[derive(PartialEq)]
enum End {
    Done,
    Error,
    Hang,
    Panic,
}

/// The handler of one processor.
pub(crate) struct SimHandler {
    pub(crate) world: World,
    pub(crate) member: Member,
    pub(crate) gate: Gate,
    pub(crate) terms: Terms,
    pub(crate) behaviour: Behaviour,
    pub(crate) bug: Option<Bug>,
    /// The term of each partition and the last event in it.
    pub(crate) current: Mutex<BTreeMap<Partition, (TermId, Option<ReceivedEvent>)>>,
}

impl SimHandler {
    fn draw(&self, seq: i64) -> Call {
        let mut settings = self.behaviour.settings();
        let (min, max) = (settings.min_ms, settings.max_ms);
        let time = Duration::from_millis(settings.chance.random_range(min..=max));
        let roll = settings.chance.random_range(0..1000);
        let end = if roll < settings.panics {
            End::Panic
        } else if roll < settings.panics + settings.errors {
            End::Error
        } else if settings.hangs > 0 && settings.chance.random_range(0..1000) < settings.hangs {
            End::Hang
        } else {
            End::Done
        };
        Call {
            time,
            end,
            is_checkpointed: settings
                .checkpoint_every
                .is_some_and(|every| (seq + 1) % every == 0),
            probes_ahead: !settings.has_batches && settings.chance.random_range(0..200) == 0,
        }
    }

    /// Writes a checkpoint and notes what came of it.
    async fn checkpoint(&self, context: &PartitionContext, event: &ReceivedEvent) {
        let (member, partition, seq) = (self.member, number(context), event.sequence_number());
        match context.update_checkpoint(event).await {
            Ok(()) => self.world.note(Happening::CheckpointAcked {
                member,
                partition,
                seq,
            }),
            // One that fails is made good for by the next.
            Err(error) => {
                if let Some(mark) = mark_of(&error) {
                    self.world.reach(mark);
                }
            }
        }
    }

    async fn handle(
        &self,
        context: &PartitionContext,
        event: ReceivedEvent,
        is_same_call: bool,
    ) -> HandlerResult {
        self.gate.pass().await;
        let (member, partition, seq) = (self.member, number(context), event.sequence_number());
        let term = {
            let mut current = self.current();
            let entry = current.entry(partition).or_insert((TermId::MAX, None));
            entry.0
        };
        self.world.note(Happening::HandlerStarted {
            member,
            partition,
            term,
            seq,
            is_same_call,
        });
        if event.body() != payload::body(self.world.seed().0, partition, seq) {
            self.world.note(Happening::Corrupted { partition, seq });
        }
        let call = self.draw(seq);
        if self.bug == Some(Bug::CheckpointDelivered) && call.is_checkpointed {
            self.checkpoint(context, &event).await;
        }
        if call.probes_ahead {
            let parts = EventParts::new(seq + 1, "1", event.enqueued_time(), "");
            match context.update_checkpoint(&ReceivedEvent::new(parts)).await {
                Err(CheckpointError::NotDelivered { .. }) => {
                    self.world.reach(Mark::CheckpointRefusedAhead);
                }
                _ => self.accepted(partition, "a checkpoint beyond the last delivered event"),
            }
        }
        if self.bug == Some(Bug::Restless) && seq % 97 == 96 {
            return Err("without a reason".into());
        }
        tokio::time::sleep(call.time).await;
        self.gate.pass().await;
        while call.end == End::Hang && self.behaviour.settings().hangs > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.gate.pass().await;
        if matches!(call.end, End::Error | End::Panic) {
            self.world.note(Happening::HandlerFailed {
                member,
                partition,
                term,
                seq,
            });
            if self.bug == Some(Bug::SwallowErrors) {
                return Ok(());
            }
            if call.end == End::Panic {
                // Unwinds as a panic does, and leaves the terminal alone.
                std::panic::resume_unwind(Box::new("as planned"));
            }
            return Err("as planned".into());
        }
        self.world.note(Happening::HandlerDone {
            member,
            partition,
            term,
            seq,
        });
        if call.is_checkpointed {
            self.checkpoint(context, &event).await;
        }
        if let Some((_, last)) = self.current().get_mut(&partition) {
            *last = Some(event);
        }
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, BTreeMap<Partition, (TermId, Option<ReceivedEvent>)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self, partition: Partition, what: &'static str) {
        self.world.note(Happening::Accepted {
            member: self.member,
            partition,
            what,
        });
    }
}

fn mark_of(error: &CheckpointError) -> Option<Mark> {
    Some(match error {
        CheckpointError::NotDelivered { .. } => Mark::CheckpointRefusedAhead,
        CheckpointError::OwnershipLost => Mark::CheckpointRefusedAtEnd,
        CheckpointError::OwnershipUnproven => Mark::CheckpointRefusedUnproven,
        CheckpointError::Store(_) => Mark::CheckpointStoreError,
        CheckpointError::Unknown(_) => Mark::CheckpointUnknown,
        _ => return None,
    })
}

fn number(context: &PartitionContext) -> Partition {
    partition_number(context.partition_id().as_str()).unwrap_or(Partition::MAX)
}

impl EventHandler for SimHandler {
    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        self.gate.pass().await;
        let (member, partition, term) = (self.member, number(context), self.terms.next());
        self.current().insert(partition, (term, None));
        self.world.note(Happening::TermStarted {
            member,
            partition,
            term,
        });
        Ok(None)
    }

    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        self.handle(context, event, false).await
    }

    async fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> HandlerResult {
        for (number, event) in events.into_iter().enumerate() {
            self.handle(context, event, number > 0).await?;
        }
        Ok(())
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        self.gate.pass().await;
        let (member, partition) = (self.member, number(context));
        let Some((term, last)) = self.current().remove(&partition) else {
            return Ok(());
        };
        match (reason, last) {
            (_, None) => {}
            (CloseReason::Shutdown, Some(last)) => {
                if self.behaviour.settings().checkpoint_every.is_some() {
                    self.checkpoint(context, &last).await;
                }
            }
            (_, Some(last)) => match context.update_checkpoint(&last).await {
                Err(CheckpointError::OwnershipLost) => {
                    self.world.reach(Mark::CheckpointRefusedAtEnd);
                }
                _ => self.accepted(partition, "a checkpoint after the end of the term"),
            },
        }
        self.world.note(Happening::TermEnded {
            member,
            partition,
            term,
            by_shutdown: reason == CloseReason::Shutdown,
        });
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        let mark = match error {
            ProcessingError::Handler { .. } => Mark::ToldHandlerFailed,
            ProcessingError::HandlerPanicked { .. } => Mark::ToldHandlerPanicked,
            ProcessingError::LoadBalancing(_) => Mark::ToldLoadBalancing,
            ProcessingError::DuplicateOwnerId { .. } => Mark::ToldTwin,
            ProcessingError::OwnershipUnproven => Mark::ToldUnproven,
            ProcessingError::EventHub(_) => Mark::ToldEventHub,
            ProcessingError::ReadCheckpoint(_) => Mark::ToldReadCheckpoint,
            ProcessingError::Receive(_) => Mark::ToldReceive,
            ProcessingError::Checkpoint(_) => Mark::ToldCheckpoint,
            _ => return,
        };
        self.world.reach(mark);
    }
}
