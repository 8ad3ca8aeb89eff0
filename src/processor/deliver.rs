//! Handing the events of one receiver to the application.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::calls::{Settled, Work};
use super::fence::Sent;
use super::inbox::{Arrived, Inbox, MAX_TAKEN};
use super::progress::Place;
use super::report::contained;
use super::sequence::Arrival;
use super::term::{Broken, Term, TermEnd};
use super::writer::Writer;
use crate::error::{CheckpointError, ProcessingError, TransportError};
use crate::telemetry;
use crate::transport::PartitionReceiver;

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
            let share = self.adjust(receiver);
            let mut inbox = Inbox::new(share / 4);
            {
                let taking = inbox.fill(receiver, &shared.options);
                tokio::pin!(taking);
                loop {
                    let error = tokio::select! {
                        // The stop first, so that it is not put off by an endless stream.
                        biased;
                        reason = self.pump.signal.stopped() => return Ok(TermEnd::Closed(reason)),
                        () = self.pump.restarts.slot().asked() => return Ok(self.restarted()),
                        error = failed(&mut self.writer) => error,
                        taken = &mut taking => break taken?,
                    };
                    // What has been taken so far is kept.
                    self.report(ProcessingError::Checkpoint(error)).await;
                }
            }
            if inbox.is_empty() {
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
            while !inbox.is_empty()
                && self.pump.signal.reason().is_none()
                && !self.pump.restarts.slot().is_asked()
            {
                let now = Sent::now();
                if !self.go_ahead(receiver, &mut inbox, now).await? {
                    break;
                }
                self.hear(receiver, &mut inbox, now.monotonic)?;
                let Some(work) = self.next_work(&mut inbox).await? else {
                    continue;
                };
                if let Some(end) = self.process(receiver, &mut inbox, &work).await? {
                    return Ok(end);
                }
                if let Some(writer) = &self.writer
                    && (inbox.is_empty() || self.options().max_batch_size.is_some())
                {
                    writer.batch_ended();
                }
            }
        }
    }

    /// Takes what the next call of a hook is about. `None`: it was delivered before.
    async fn next_work(&mut self, inbox: &mut Inbox) -> Result<Option<Work>, Broken> {
        let Some(max) = self.options().max_batch_size else {
            return self.next_event(inbox).await;
        };
        let mut batch = Vec::with_capacity(inbox.len().min(max.get()));
        while batch.len() < max.get()
            && let Some(next) = inbox.front()
        {
            // A batch ends before a gap, since what comes after it is not known yet, and before what is no event.
            let is_its_end = match next {
                Arrived::Event(event) => {
                    self.sequence.judge(event.sequence_number()) == Arrival::Gap
                }
                Arrived::Undecodable(_) => true,
            };
            if is_its_end && !batch.is_empty() {
                break;
            }
            match self.next_event(inbox).await? {
                Some(Work::Event(event)) => batch.push(event),
                Some(work) => return Ok(Some(work)),
                None => {}
            }
        }
        Ok((!batch.is_empty()).then_some(Work::Batch(batch)))
    }

    /// Takes the next event of the partition and notes that it goes to the application. `None`: it did before; within a
    /// term, positions only grow.
    pub(super) async fn next_event(&mut self, inbox: &mut Inbox) -> Result<Option<Work>, Broken> {
        let Some(arrived) = inbox.pop() else {
            return Ok(None);
        };
        if let Some(sequence_number) = arrived.sequence_number() {
            if !self.is_next(sequence_number).await? {
                return Ok(None);
            }
            self.sequence.deliver(sequence_number);
            self.pump.cell.delivers(sequence_number);
        } else {
            self.sequence.pass_unreadable();
        }
        let work = match arrived {
            Arrived::Event(event) => Work::Event(event),
            Arrived::Undecodable(undecodable) => {
                Work::undecodable(&undecodable, self.sequence.last())
            }
        };
        if let Some(event) = work.last_place() {
            self.context.note_delivery(event);
            self.delivered = Some(Place::of(event));
        }
        Ok(Some(work))
    }

    /// Whether an event is the next of the partition. `false`: it was delivered before.
    async fn is_next(&mut self, sequence_number: i64) -> Result<bool, Broken> {
        match self.sequence.judge(sequence_number) {
            Arrival::Next => Ok(true),
            Arrival::Again => {
                let partition_id = &self.pump.partition_id;
                tracing::warn!(
                    target: telemetry::PROCESSOR,
                    %partition_id, sequence_number,
                    "dropped an event that was delivered before"
                );
                Ok(false)
            }
            Arrival::Gap => {
                self.sequence.suspect(sequence_number);
                Err(Broken::Gap {
                    before: sequence_number,
                })
            }
            Arrival::After { missing } => {
                let after = self.sequence.last().unwrap_or_default();
                let error = ProcessingError::EventsMissing { after, missing };
                self.report(error).await;
                Ok(true)
            }
        }
    }

    /// Tells the receiver how much may wait in it, if that has changed. Returns the partition's share of the memory:
    /// half of it is the receiver's.
    pub(super) fn adjust(&mut self, receiver: &mut dyn PartitionReceiver) -> usize {
        let share = self.pump.memory.bytes();
        if self.share != share {
            self.share = share;
            receiver.set_byte_limit(share / 2);
        }
        share
    }

    /// Calls the hook and does what follows. `Some`: the term ends.
    async fn process(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        inbox: &mut Inbox,
        work: &Work,
    ) -> Result<Option<TermEnd>, TransportError> {
        let caller = Arc::clone(&self.caller);
        // Not in a `select!`: a stop waits for the call instead of cutting it.
        let (settled, broken) = match caller.call(work).await {
            Ok(()) => (Settled::Done, None),
            Err(error) => self.settle(receiver, inbox, work, error).await,
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
        inbox: &mut Inbox,
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
                    if let Err(error) = self.hear_waiting(receiver, inbox) {
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

    /// Waits until the partition is not paused, the next event is asked for, and the partition known to be ours. `false`:
    /// told to stop instead.
    async fn go_ahead(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        inbox: &mut Inbox,
        mut now: Sent,
    ) -> Result<bool, TransportError> {
        while !self.pump.restarts.slot().is_open() {
            let slot = Arc::clone(self.pump.restarts.slot());
            tokio::select! {
                biased;
                _ = self.pump.signal.stopped() => return Ok(false),
                () = slot.asked() => return Ok(false),
                () = slot.opened() => {}
                () = tokio::time::sleep(HEAR_EVERY) => {
                    self.hear_waiting(receiver, inbox)?;
                }
            }
            now = Sent::now();
        }
        self.prove(receiver, inbox, now).await
    }

    /// Asks the link for news that are here already. Who was displaced learns it here and not after all that was taken.
    fn hear(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        inbox: &mut Inbox,
        now: Instant,
    ) -> Result<(), TransportError> {
        if now.saturating_duration_since(self.heard) < HEAR_EVERY {
            return Ok(());
        }
        self.heard = now;
        match receiver.receive(inbox.room()).now_or_never() {
            Some(news) => inbox.admit(news),
            None => Ok(()),
        }
    }

    /// The same while nothing is handed out, so that what the answers bring stays. With enough of it the link is left alone:
    /// a loss then shows in the records, or when the partition goes on.
    fn hear_waiting(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        inbox: &mut Inbox,
    ) -> Result<(), TransportError> {
        if inbox.room() > 1 {
            self.hear(receiver, inbox, Instant::now())?;
            self.pump.fence.link_is_up(receiver.silence());
        }
        Ok(())
    }

    /// Waits until the partition is known to be ours. `false`: told to stop instead.
    pub(super) async fn prove(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        inbox: &mut Inbox,
        now: Sent,
    ) -> Result<bool, TransportError> {
        if self.pump.fence.lease_held(&now) {
            return Ok(true);
        }
        let fence = Arc::clone(&self.pump.fence);
        let is_due = self.listened.is_none_or(|at| at.elapsed() >= LISTEN_EVERY);
        if is_due {
            // Whoever slept through the end of the lease may have been displaced since, and the news lies unread.
            self.listened = Some(Instant::now());
            let news = tokio::time::timeout(LISTEN_FOR, receiver.receive(inbox.room())).await;
            self.heard = Instant::now();
            if let Ok(news) = news {
                inbox.admit(news)?;
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
                news = receiver.receive(MAX_TAKEN), if inbox.room() > 1 => Some(news),
                () = tokio::time::sleep(PROVE_EVERY) => None,
            };
            if let Some(news) = news {
                inbox.admit(news)?;
            }
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
        let fence = Arc::clone(&self.pump.fence);
        loop {
            let begun = Instant::now();
            self.looked = Some(begun);
            self.pump.shared.notes.look_now.notify_one();
            let confirmed = async {
                while !fence.lease_holds() {
                    tokio::time::sleep(PROVE_EVERY).await;
                }
            };
            tokio::select! {
                biased;
                _ = self.pump.signal.stopped() => return,
                () = confirmed => return,
                () = tokio::time::sleep(LOOK_FOR) => {}
            }
            // Whoever was not scheduled meanwhile knows as little as before.
            if begun.elapsed() < LOOK_FOR * 2 {
                return;
            }
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

/// The next checkpoint that a policy asked for and that failed.
pub(super) async fn failed(writer: &mut Option<Writer>) -> CheckpointError {
    match writer {
        Some(writer) => writer.failed().await,
        None => std::future::pending().await,
    }
}
