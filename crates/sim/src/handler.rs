//! The application of our processors: works, fails and checkpoints as told, and writes down what it was asked to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventhubs_processor::{
    CheckpointError, CloseReason, EventHandler, EventParts, EventPosition, HandlerResult,
    PartitionContext, ReceivedEvent,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::bugs::Bug;
use crate::gate::Gate;
use crate::history::{Happening, Member, Partition, TermId};
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
    /// Events between two checkpoints.
    pub(crate) checkpoint_every: i64,
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
        } else {
            End::Done
        };
        Call {
            time,
            end,
            is_checkpointed: (seq + 1) % settings.checkpoint_every == 0,
            probes_ahead: settings.chance.random_range(0..200) == 0,
        }
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
        self.gate.pass().await;
        let (member, partition, seq) = (self.member, number(context), event.sequence_number());
        let term = {
            let mut current = self.current();
            let entry = current.entry(partition).or_insert((TermId::MAX, None));
            entry.1 = Some(event.clone());
            entry.0
        };
        self.world.note(Happening::HandlerStarted {
            member,
            partition,
            term,
            seq,
        });
        if event.body() != payload::body(self.world.seed().0, partition, seq) {
            self.world.note(Happening::Corrupted { partition, seq });
        }
        let call = self.draw(seq);
        if self.bug == Some(Bug::CheckpointDelivered) && call.is_checkpointed {
            let _ = context.update_checkpoint(&event).await;
        }
        if call.probes_ahead {
            let parts = EventParts::new(seq + 1, "1", event.enqueued_time(), "");
            if context
                .update_checkpoint(&ReceivedEvent::new(parts))
                .await
                .is_ok()
            {
                self.accepted(partition, "a checkpoint beyond the last delivered event");
            }
        }
        tokio::time::sleep(call.time).await;
        self.gate.pass().await;
        if call.end != End::Done {
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
            // One that fails is made good for by the next.
            let _ = context.update_checkpoint(&event).await;
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
        if reason != CloseReason::Shutdown
            && let Some(last) = last
        {
            match context.update_checkpoint(&last).await {
                Err(CheckpointError::OwnershipLost) => {}
                _ => self.accepted(partition, "a checkpoint after the end of the term"),
            }
        }
        self.world.note(Happening::TermEnded {
            member,
            partition,
            term,
            by_shutdown: reason == CloseReason::Shutdown,
        });
        Ok(())
    }
}
