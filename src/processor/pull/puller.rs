//! The handler behind the streams: takes one event at a time to whoever asks for it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use super::partition::Partition;
use super::seat::{Delivery, Occupied, Seat};
use crate::error::{BoxError, ProcessingError};
use crate::model::{EventPosition, PartitionId, ReceivedEvent};
use crate::processor::PartitionContext;
use crate::processor::calls::NotTaken;
use crate::processor::failure::FailureAction;
use crate::processor::handler::{CloseReason, EventHandler, HandlerResult};

type OnError = Box<dyn Fn(Option<&PartitionContext>, &ProcessingError) + Send + Sync>;

/// Serves the partitions of one processor.
#[derive(Default)]
pub(in crate::processor) struct Puller {
    offers: Arc<Offers>,
    /// The seats of the terms that are running.
    seats: Mutex<BTreeMap<PartitionId, Occupied>>,
    on_error: OnceLock<OnError>,
}

/// Partitions that nobody has taken: at most one of each, so they need no other limit.
#[derive(Debug, Default)]
pub(super) struct Offers {
    queue: Mutex<VecDeque<Partition>>,
    pub(super) taker: AtomicWaker,
}

/// The reader dropped its end while it had an event.
#[derive(Debug, thiserror::Error)]
#[error("the stream was dropped before its last event was done")]
struct Dropped;

impl Puller {
    pub(super) fn offers(&self) -> &Arc<Offers> {
        &self.offers
    }

    /// The first one counts.
    pub(super) fn set_on_error(&self, on_error: OnError) {
        let _ = self.on_error.set(on_error);
    }

    fn seat(&self, partition_id: &PartitionId) -> Option<Arc<Seat>> {
        let seats = self.seats();
        seats.get(partition_id).map(|seat| Arc::clone(&seat.0))
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Occupied>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller")
            .field("offers", &self.offers)
            .field("seats", &self.seats)
            .finish_non_exhaustive()
    }
}

impl Offers {
    fn add(&self, partition: Partition) {
        let id = partition.partition_id().clone();
        let mut queue = self.lock();
        // Of a term that ended without its close hook.
        let stale = remove(&mut queue, |offered| *offered.partition_id() == id);
        queue.push_back(partition);
        drop(queue);
        drop(stale);
        self.taker.wake();
    }

    fn withdraw(&self, seat: &Arc<Seat>) {
        let untaken = remove(&mut self.lock(), |offered| offered.is_at(seat));
        // Outside of the lock: dropping it has consequences.
        drop(untaken);
    }

    pub(super) fn take(&self) -> Option<Partition> {
        self.lock().pop_front()
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Partition>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(
    queue: &mut VecDeque<Partition>,
    is_wanted: impl Fn(&Partition) -> bool,
) -> Option<Partition> {
    let index = queue.iter().position(is_wanted)?;
    queue.remove(index)
}

impl EventHandler for Puller {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        // There is one from the initialize hook to the close hook.
        let seat = self.seat(context.partition_id()).ok_or(NotTaken)?;
        let slot = context.checkpointer().restarts();
        // The next one has to be asked for.
        slot.hold();
        let (settle, mut settled) = oneshot::channel();
        // Cut off here, the event must not be taken after all.
        let on_its_way = OnItsWay(&seat);
        seat.put(Delivery { event, settle });
        tokio::select! {
            biased;
            result = &mut settled => return result.unwrap_or_else(|_| Err(dropped())),
            () = context.stopping() => {}
            () = slot.asked() => {}
        }
        if on_its_way.0.take_back() {
            return Err(NotTaken.into());
        }
        settled.await.unwrap_or_else(|_| Err(dropped()))
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        let seat = Arc::<Seat>::default();
        context.checkpointer().restarts().hold();
        let occupied = Occupied(Arc::clone(&seat));
        let before = self
            .seats()
            .insert(context.partition_id().clone(), occupied);
        drop(before);
        self.offers.add(Partition::new(context.clone(), seat));
        Ok(None)
    }

    /// Waits until the reader is gone: it may write a last checkpoint, and the next term must not run beside it.
    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        let occupied = self.seats().remove(context.partition_id());
        if let Some(Occupied(seat)) = &occupied {
            seat.close(reason);
            self.offers.withdraw(seat);
            seat.vacated().await;
        }
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        if let Some(on_error) = self.on_error.get() {
            on_error(context, error);
        }
    }
}

/// Whatever the policy says, the events since the checkpoint have to come again: nobody has them any more.
fn dropped() -> BoxError {
    FailureAction::Restart.because(Dropped)
}

struct OnItsWay<'a>(&'a Seat);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.take_back();
    }
}
