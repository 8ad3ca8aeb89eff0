//! Several events of one partition at a time, in order within a key.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::calls::{Settled, Work};
use super::deliver::{HEAR_EVERY, failed};
use super::fence::Sent;
use super::handler::CloseReason;
use super::inbox::{Inbox, MAX_TAKEN};
use super::report::contained;
use super::term::{Broken, Term, TermEnd};
use super::window::{Limits, Ticket, Window};
use crate::error::{ProcessingError, TransportError};
use crate::model::ReceivedEvent;
use crate::telemetry;
use crate::transport::PartitionReceiver;

/// What events are ordered by: a number for each key. Two keys with one number are only slower.
#[derive(Clone)]
pub(super) struct OrderingKey(Arc<KeyFn>);

type KeyFn = dyn Fn(&ReceivedEvent) -> Option<u64> + Send + Sync;

impl OrderingKey {
    pub(super) fn by<K: Hash>(
        key: impl Fn(&ReceivedEvent) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let hasher = RandomState::new();
        Self(Arc::new(move |event| {
            key(event).map(|key| hasher.hash_one(key))
        }))
    }
}

impl Default for OrderingKey {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self(Arc::new(move |event| {
            event.partition_key().map(|key| hasher.hash_one(key))
        }))
    }
}

impl fmt::Debug for OrderingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrderingKey")
    }
}

/// The events of a term that are being processed beside each other. Dropping it cuts them.
#[derive(Debug)]
pub(super) struct Parallel {
    window: Window,
    calls: JoinSet<(Ticket, Settled)>,
    key: OrderingKey,
}

impl Parallel {
    pub(super) fn new(limits: Limits, key: OrderingKey) -> Self {
        Self {
            window: Window::new(limits),
            calls: JoinSet::new(),
            key,
        }
    }
}

impl Term<'_> {
    /// Processes what one receiver brings. `Err`: the receiver is done; what it brought goes on, and the term with
    /// another.
    pub(super) async fn deliver_in_parallel(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        parallel: &mut Parallel,
    ) -> Result<TermEnd, Broken> {
        let mut last_event = Instant::now();
        loop {
            let share = self.adjust(receiver);
            parallel.window.set_byte_limit(share / 2);
            let slot = Arc::clone(self.pump.restarts.slot());
            let is_paused = slot.is_paused();
            if !is_paused {
                let mut inbox = Inbox::new(share / 4);
                let is_proven = self.prove(receiver, &mut inbox, Sent::now()).await?;
                self.take_up(parallel, inbox).await?;
                if is_proven {
                    self.start_calls(parallel);
                }
            }
            let room = if is_paused {
                0
            } else {
                parallel.window.room().min(MAX_TAKEN)
            };
            let idle_at = match self.options().max_wait_time {
                Some(wait) if parallel.window.is_empty() && !is_paused => Some(last_event + wait),
                _ => None,
            };
            tokio::select! {
                // The stop first, so that it is not put off by an endless stream.
                biased;
                reason = self.pump.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                () = slot.asked() => return Ok(self.restarted()),
                () = slot.resumed(), if is_paused => {}
                error = failed(&mut self.writer) => {
                    self.report(ProcessingError::Checkpoint(error)).await;
                }
                Some(ended) = parallel.calls.join_next() => {
                    let mut ended = Some(ended);
                    while let Some(call) = ended {
                        if let Some(end) = self.call_ended(parallel, call) {
                            return Ok(end);
                        }
                        ended = parallel.calls.try_join_next();
                    }
                }
                events = receiver.receive(room), if room > 0 => {
                    last_event = Instant::now();
                    self.take_in(parallel, events).await?;
                    self.pump.fence.link_is_up(receiver.silence());
                }
                // Who has no room asks all the same whether the link still stands, and takes one event at most. In the long
                // run that is too many: then a loss shows in the records, or when there is room again.
                () = tokio::time::sleep(HEAR_EVERY), if room == 0 && !parallel.window.is_overfull() => {
                    if let Some(events) = receiver.receive(1).now_or_never() {
                        self.take_in(parallel, events).await?;
                    }
                    self.pump.fence.link_is_up(receiver.silence());
                }
                () = sleep_until(idle_at), if idle_at.is_some() => {
                    let _running = self.caller.cell.runs("on_idle");
                    let idle = contained("on_idle", self.handler().on_idle(&self.context)).await;
                    if let Err(error) = idle {
                        self.report(error).await;
                        return Ok(TermEnd::Failed);
                    }
                    last_event = Instant::now();
                }
            }
        }
    }

    async fn take_in(
        &mut self,
        parallel: &mut Parallel,
        news: Result<Vec<ReceivedEvent>, TransportError>,
    ) -> Result<(), Broken> {
        let mut inbox = Inbox::default();
        inbox.admit(news)?;
        self.take_up(parallel, inbox).await
    }

    /// Events whose key cannot be told are ordered among themselves.
    async fn key_of(&self, parallel: &Parallel, event: &ReceivedEvent) -> Option<u64> {
        const UNTOLD: u64 = 0;
        let key = AssertUnwindSafe(|| (parallel.key.0)(event));
        match catch_unwind(key) {
            Ok(key) => key,
            Err(_) => {
                let hook = "ordering_key";
                self.report(ProcessingError::HandlerPanicked { hook }).await;
                Some(UNTOLD)
            }
        }
    }

    async fn take_up(&mut self, parallel: &mut Parallel, mut inbox: Inbox) -> Result<(), Broken> {
        while !inbox.is_empty() {
            if let Some(work) = self.next_event(&mut inbox).await? {
                let key = match &work {
                    Work::Event(event) => self.key_of(parallel, event).await,
                    Work::Batch(_) | Work::Undecodable { .. } => None,
                };
                parallel.window.push(work, key);
            }
        }
        Ok(())
    }

    fn start_calls(&self, parallel: &mut Parallel) {
        while let Some((ticket, work)) = parallel.window.start() {
            let caller = Arc::clone(&self.caller);
            let call = async move {
                let settled = match caller.call(&work).await {
                    Ok(()) => Settled::Done,
                    Err(error) => caller.settle(&work, error).await,
                };
                (ticket, settled)
            };
            parallel.calls.spawn(call.in_current_span());
        }
    }

    /// `Some`: the term has to end.
    fn call_ended(
        &self,
        parallel: &mut Parallel,
        ended: Result<(Ticket, Settled), JoinError>,
    ) -> Option<TermEnd> {
        match ended {
            Ok((ticket, Settled::Done)) => {
                let prefix = parallel.window.finish(ticket);
                if let Some((place, events)) = prefix {
                    self.pump.cell.completed(&place, events);
                    let Some(writer) = &self.writer else {
                        return None;
                    };
                    writer.completed(place, events);
                    if parallel.window.is_empty() {
                        writer.batch_ended();
                    }
                }
                None
            }
            Ok((_, Settled::Ended(end))) => Some(end),
            Err(error) => {
                tracing::error!(
                    target: telemetry::PROCESSOR,
                    partition_id = %self.pump.partition_id, is_panic = error.is_panic(),
                    "a call of the handler ended out of turn; the partition starts again"
                );
                Some(TermEnd::Failed)
            }
        }
    }

    /// Waits for the calls that are running. What they complete still counts. Before a partition is passed on, the gaps
    /// between them are filled, too.
    pub(super) async fn drain(&self, parallel: &mut Parallel, end: &TermEnd) {
        self.caller.ending.cancel();
        parallel.window.close();
        let is_passed_on = matches!(end, TermEnd::Closed(CloseReason::Shutdown));
        loop {
            if is_passed_on && self.pump.fence.holds() {
                self.start_calls(parallel);
            }
            let Some(ended) = parallel.calls.join_next().await else {
                return;
            };
            self.call_ended(parallel, ended);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
