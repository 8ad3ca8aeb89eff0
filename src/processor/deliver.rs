//! Handing the events of one receiver to the application.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::calls::{Settled, Work};
use super::options::ProcessorOptions;
use super::progress::Place;
use super::report::contained;
use super::sequence::Arrival;
use super::term::{Broken, Term, TermEnd};
use super::writer::Writer;
use crate::error::{CheckpointError, ProcessingError, TransportError};
use crate::model::ReceivedEvent;
use crate::telemetry;
use crate::transport::PartitionReceiver;

/// Most events taken from the receiver at once: enough to make its cost per event vanish, little enough that a stop
/// or a loss is seen soon.
pub(super) const MAX_TAKEN: usize = 128;

/// How often the link is asked for news between two events: who was displaced hands out nothing it took before.
pub(super) const HEAR_EVERY: Duration = Duration::from_millis(100);

/// While the lease does not hold, the link is asked for news this often and this long before the handler is called.
const LISTEN_EVERY: Duration = Duration::from_secs(5);
const LISTEN_FOR: Duration = Duration::from_millis(50);

/// How long the records may take before a receiver is opened without a lease, and how often that is waited for: a
/// link that drops again and again while the store is down is not to cost as much each time.
const LOOK_FOR: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often a paused term looks for a proof.
const PROVE_EVERY: Duration = Duration::from_millis(500);

impl Term<'_> {
    /// Delivers what one receiver brings. `Err`: the receiver is done and the term goes on with another.
    pub(super) async fn deliver_all(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
    ) -> Result<TermEnd, Broken> {
        let shared = Arc::clone(&self.pump.shared);
        loop {
            let events = {
                let taking = take(receiver, &shared.options);
                tokio::pin!(taking);
                loop {
                    let error = tokio::select! {
                        // The stop first, so that it is not put off by an endless stream.
                        biased;
                        reason = self.pump.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                        () = self.pump.restarts.slot().asked() => return Ok(self.restarted()),
                        error = failed(&mut self.writer) => error,
                        events = &mut taking => break events?,
                    };
                    // What has been taken so far is kept.
                    self.report(ProcessingError::Checkpoint(error)).await;
                }
            };
            if events.is_empty() {
                let _running = self.caller.cell.runs("on_idle");
                let idle = contained("on_idle", self.handler().on_idle(&self.context)).await;
                if let Err(error) = idle {
                    self.report(error).await;
                    return Ok(TermEnd::Failed);
                }
            }
            self.heard = Instant::now();
            // So that what is done with them may be checkpointed even if the lease runs out meanwhile.
            self.pump.fence.link_is_up(receiver.silence());
            let mut events = VecDeque::from(events);
            while !events.is_empty()
                && self.pump.signal.reason().is_none()
                && !self.pump.restarts.slot().is_asked()
            {
                if !self.go_ahead(receiver, &mut events).await? {
                    break;
                }
                self.hear(receiver, &mut events)?;
                let Some(work) = self.next_work(&mut events).await? else {
                    continue;
                };
                if let Some(end) = self.process(receiver, &mut events, &work).await? {
                    return Ok(end);
                }
                if let Some(writer) = &self.writer
                    && (events.is_empty() || self.options().max_batch_size.is_some())
                {
                    writer.batch_ended();
                }
            }
        }
    }

    /// Takes what the next call of a hook is about. `None`: it was delivered before.
    async fn next_work(
        &mut self,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<Option<Work>, Broken> {
        let Some(max) = self.options().max_batch_size else {
            return Ok(self.next_event(events).await?.map(Work::Event));
        };
        let mut batch = Vec::with_capacity(events.len().min(max.get()));
        while batch.len() < max.get()
            && let Some(next) = events.front()
        {
            // A batch ends before a gap; what comes after it is not known yet.
            let is_gap = self.sequence.judge(next.sequence_number()) == Arrival::Gap;
            if is_gap && !batch.is_empty() {
                break;
            }
            batch.extend(self.next_event(events).await?);
        }
        Ok((!batch.is_empty()).then_some(Work::Batch(batch)))
    }

    /// Takes the next event of the partition and notes that it goes to the application. `None`: it did before; within a
    /// term, positions only grow.
    pub(super) async fn next_event(
        &mut self,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<Option<ReceivedEvent>, Broken> {
        let Some(event) = events.pop_front() else {
            return Ok(None);
        };
        let sequence_number = event.sequence_number();
        match self.sequence.judge(sequence_number) {
            Arrival::Next => {}
            Arrival::Again => {
                let partition_id = &self.pump.partition_id;
                tracing::warn!(
                    target: telemetry::PROCESSOR,
                    %partition_id, sequence_number,
                    "dropped an event that was delivered before"
                );
                return Ok(None);
            }
            Arrival::Gap => {
                self.sequence.suspect(sequence_number);
                return Err(Broken::Gap {
                    before: sequence_number,
                });
            }
            Arrival::After { missing } => {
                let after = self.sequence.last().unwrap_or_default();
                let error = ProcessingError::EventsMissing { after, missing };
                self.report(error).await;
            }
        }
        self.sequence.deliver(sequence_number);
        self.context.note_delivery(&event);
        self.pump.cell.delivers(sequence_number);
        self.delivered = Some(Place::of(&event));
        Ok(Some(event))
    }

    /// Calls the hook and does what follows. `Some`: the term ends.
    async fn process(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
        work: &Work,
    ) -> Result<Option<TermEnd>, TransportError> {
        let caller = Arc::clone(&self.caller);
        // Not in a `select!`: a stop waits for the call instead of cutting it.
        let (settled, broken) = match caller.call(work).await {
            Ok(()) => (Settled::Done, None),
            Err(error) => self.settle(receiver, events, work, error).await,
        };
        match (settled, broken) {
            (Settled::Done, broken) => {
                self.note_completion(work.events().len());
                broken.map_or(Ok(None), Err)
            }
            (Settled::Ended(_), Some(error)) if error.is_ownership_lost() => Err(error),
            (Settled::Ended(end), _) => Ok(Some(end)),
        }
    }

    /// Settles work that failed, which may take long, while the link is asked for news. Also returns what broke the
    /// link meanwhile: the term may not open another before the work is done, because that one would start after it.
    async fn settle(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
        work: &Work,
        error: ProcessingError,
    ) -> (Settled, Option<TransportError>) {
        let caller = Arc::clone(&self.caller);
        let settling = caller.settle(work, error);
        tokio::pin!(settling);
        let mut broken = None;
        loop {
            tokio::select! {
                biased;
                settled = &mut settling => return (settled, broken),
                () = tokio::time::sleep(HEAR_EVERY), if broken.is_none() => {
                    match self.hear_waiting(receiver, events) {
                        Ok(()) => self.pump.fence.link_is_up(receiver.silence()),
                        Err(error) => {
                            self.pump.fence.link_is_down();
                            if error.is_ownership_lost() {
                                caller.ending.cancel();
                            }
                            broken = Some(error);
                        }
                    }
                }
            }
        }
    }

    /// Waits until the partition is not paused, the next event is asked for, and the partition known to be ours. `false`:
    /// told to stop instead.
    async fn go_ahead(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<bool, TransportError> {
        let slot = Arc::clone(self.pump.restarts.slot());
        while !slot.is_open() {
            tokio::select! {
                biased;
                _ = self.pump.signal.stopped() => return Ok(false),
                () = slot.asked() => return Ok(false),
                () = slot.opened() => {}
                () = tokio::time::sleep(HEAR_EVERY) => {
                    self.hear_waiting(receiver, events)?;
                    self.pump.fence.link_is_up(receiver.silence());
                }
            }
        }
        self.prove(receiver, events).await
    }

    /// Asks the link for news that are here already. Who was displaced learns it here and not after all that was taken.
    fn hear(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<(), TransportError> {
        if self.heard.elapsed() < HEAR_EVERY {
            return Ok(());
        }
        self.heard = Instant::now();
        if let Some(news) = receiver.receive(room(events)).now_or_never() {
            events.extend(news?);
        }
        Ok(())
    }

    /// The same while nothing is handed out, so that what the answers bring stays. With enough of it the link is left alone:
    /// a loss then shows in the records, or when the partition goes on.
    fn hear_waiting(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<(), TransportError> {
        if events.len() < 2 * MAX_TAKEN {
            self.hear(receiver, events)?;
        }
        Ok(())
    }

    /// Waits until the partition is known to be ours. `false`: told to stop instead.
    pub(super) async fn prove(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        events: &mut VecDeque<ReceivedEvent>,
    ) -> Result<bool, TransportError> {
        let fence = Arc::clone(&self.pump.fence);
        if fence.lease_holds() {
            return Ok(true);
        }
        let is_due = self.listened.is_none_or(|at| at.elapsed() >= LISTEN_EVERY);
        if is_due {
            // Whoever slept through the end of the lease may have been displaced since, and the news lies unread.
            self.listened = Some(Instant::now());
            let news = tokio::time::timeout(LISTEN_FOR, receiver.receive(room(events))).await;
            self.heard = Instant::now();
            if let Ok(more) = news {
                events.extend(more?);
            }
        }
        fence.link_is_up(receiver.silence());
        if fence.holds() {
            return Ok(true);
        }
        self.pump.cell.is_proven(false);
        self.report(ProcessingError::OwnershipUnproven).await;
        loop {
            let news = tokio::select! {
                biased;
                _ = self.pump.signal.stopped() => return Ok(false),
                // What is here already bounds what is taken: nothing more is, but a failed link is noticed.
                news = receiver.receive(MAX_TAKEN), if events.len() < MAX_TAKEN => Some(news?),
                () = tokio::time::sleep(PROVE_EVERY) => None,
            };
            events.extend(news.into_iter().flatten());
            fence.link_is_up(receiver.silence());
            if fence.holds() {
                self.pump.cell.is_proven(true);
                let partition_id = &self.pump.partition_id;
                tracing::info!(target: telemetry::PROCESSOR, %partition_id, "ownership is proven again");
                return Ok(true);
            }
        }
    }

    /// To be called before a receiver is opened in place of one that failed. Without a lease somebody else may read by
    /// right, whom it would displace: the records are looked at first, and whoever has lost the partition is told so.
    /// If the store does not answer, the partition is read all the same.
    pub(super) async fn look_first(&mut self) {
        let is_recent = self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if self.pump.fence.lease_holds() || is_recent {
            return;
        }
        self.looked = Some(Instant::now());
        self.pump.shared.notes.look_now.notify_one();
        let fence = Arc::clone(&self.pump.fence);
        let confirmed = async {
            while !fence.lease_holds() {
                tokio::time::sleep(PROVE_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            _ = self.pump.signal.stopped() => {}
            () = confirmed => {}
            () = tokio::time::sleep(LOOK_FOR) => {}
        }
    }

    /// Notes that the last `count` events delivered are done.
    fn note_completion(&self, count: usize) {
        let Some(last) = &self.delivered else {
            return;
        };
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.pump.cell.completed(last, count);
        if let Some(writer) = &self.writer {
            writer.completed(last.clone(), count);
        }
    }
}

/// Waits for the next events; none, if there were none for `max_wait_time`.
///
/// CANCEL: events of a batch that is still filling are lost to the receiver, but none was delivered, so whoever opens
/// the next one starts before them.
async fn take(
    receiver: &mut dyn PartitionReceiver,
    options: &ProcessorOptions,
) -> Result<Vec<ReceivedEvent>, TransportError> {
    let max = options.max_batch_size.map_or(MAX_TAKEN, NonZeroUsize::get);
    let Some(max_wait_time) = options.max_wait_time else {
        return receiver.receive(max).await;
    };
    let deadline = Instant::now() + max_wait_time;
    let mut events = Vec::new();
    while let Ok(more) =
        tokio::time::timeout_at(deadline, receiver.receive(max - events.len())).await
    {
        events.extend(more?);
        if options.max_batch_size.is_none() || events.len() >= max {
            break;
        }
    }
    Ok(events)
}

/// How many events to take when what matters is whether the link still stands. Whoever holds many takes one more at
/// most: between two questions one is handed out at least, so they do not pile up, and no link goes unasked.
fn room(held: &VecDeque<ReceivedEvent>) -> usize {
    if held.len() > MAX_TAKEN { 1 } else { MAX_TAKEN }
}

/// The next checkpoint that a policy asked for and that failed.
pub(super) async fn failed(writer: &mut Option<Writer>) -> CheckpointError {
    match writer {
        Some(writer) => writer.failed().await,
        None => std::future::pending().await,
    }
}
