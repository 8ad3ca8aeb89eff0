//! Where a term meets whoever reads its stream, with one event at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::model::ReceivedEvent;
use crate::processor::handler::{CloseReason, HandlerResult};

/// One event on its way to the reader, and where the reader says what became of it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) event: ReceivedEvent,
    pub(super) settle: oneshot::Sender<HandlerResult>,
}

/// The meeting place of one term.
#[derive(Debug, Default)]
pub(super) struct Seat {
    state: Mutex<State>,
    reader: AtomicWaker,
    vacated: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    delivery: Option<Delivery>,
    end: Option<End>,
    is_vacant: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Closed(CloseReason),
    /// The processor is gone.
    Abandoned,
}

/// What the reader finds.
#[derive(Debug)]
pub(super) enum Found {
    Event(Delivery),
    /// Nothing yet; the reader is woken.
    Nothing,
    End,
}

/// What the reader leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The term goes on.
    Running,
    /// An event was on its way; the term is told.
    AnEvent,
    /// The term had ended.
    Over,
}

impl Seat {
    /// Puts an event there. It is dropped, which its sender notices, if nobody will read it.
    pub(super) fn put(&self, delivery: Delivery) {
        let mut state = self.lock();
        if !state.is_vacant && state.end.is_none() {
            state.delivery = Some(delivery);
        }
        drop(state);
        self.reader.wake();
    }

    /// Takes back what has not been taken. Returns whether there was anything.
    pub(super) fn take_back(&self) -> bool {
        self.lock().delivery.take().is_some()
    }

    /// What there is for the reader.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Found {
        // First, so that nothing comes unnoticed in between.
        self.reader.register(cx.waker());
        let mut state = self.lock();
        match (state.delivery.take(), state.end) {
            (Some(delivery), _) => Found::Event(delivery),
            (None, Some(_)) => Found::End,
            (None, None) => Found::Nothing,
        }
    }

    /// No more events come.
    pub(super) fn close(&self, reason: CloseReason) {
        self.end(End::Closed(reason));
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        let untaken = state.delivery.take();
        drop(state);
        drop(untaken);
        self.reader.wake();
    }

    /// Why no more events come.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        match self.lock().end {
            Some(End::Closed(reason)) => Some(reason),
            Some(End::Abandoned) | None => None,
        }
    }

    /// The reader goes.
    pub(super) fn leave(&self) -> Left {
        let mut state = self.lock();
        state.is_vacant = true;
        let left = match (state.delivery.take(), state.end) {
            (_, Some(_)) => Left::Over,
            (Some(_), None) => Left::AnEvent,
            (None, None) => Left::Running,
        };
        drop(state);
        left
    }

    /// Lets the term go on that waits for the reader to be gone.
    pub(super) fn vacate(&self) {
        self.vacated.cancel();
    }

    /// Completes once the reader is gone. Cancel safe.
    pub(super) async fn vacated(&self) {
        self.vacated.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs while the state is half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The term's end of a seat: if it goes without a word, as in a crash, the reader's stream ends.
#[derive(Debug)]
pub(super) struct Occupied(pub(super) Arc<Seat>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.end(End::Abandoned);
    }
}
