//! A receiver that notes what it brings and obeys the watchdog.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::cell::PartitionCell;
use super::stall::Order;
use crate::error::{StallRemedy, TransportError, TransportErrorKind};
use crate::model::{EventPosition, ReceivedEvent};
use crate::transport::PartitionReceiver;

#[derive(Debug)]
struct Watched {
    inner: Box<dyn PartitionReceiver>,
    cell: Arc<PartitionCell>,
}

/// Watches a receiver that was opened at `position`.
pub(in crate::processor) fn watched(
    inner: Box<dyn PartitionReceiver>,
    position: &EventPosition,
    cell: &Arc<PartitionCell>,
) -> Box<dyn PartitionReceiver> {
    cell.opened(position);
    Box::new(Watched {
        inner,
        cell: Arc::clone(cell),
    })
}

#[async_trait]
impl PartitionReceiver for Watched {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        loop {
            let order = tokio::select! {
                // Whatever comes says more than an order that was given because nothing did.
                biased;
                received = self.inner.receive(max) => {
                    if let Ok(events) = &received {
                        self.cell.received(events);
                    }
                    return received;
                }
                order = self.cell.ordered() => order,
            };
            match order {
                Order::Nudge => self.inner.remind(),
                Order::Treat(stall) => {
                    if stall.remedy == StallRemedy::Reconnect {
                        self.inner.abandon_connection();
                    }
                    self.cell.treats(stall);
                    return Err(TransportError::new(
                        TransportErrorKind::Timeout,
                        "no event has come although there are some",
                    ));
                }
            }
        }
    }

    fn silence(&self) -> Option<Duration> {
        self.inner.silence()
    }

    fn buffered_bytes(&self) -> Option<usize> {
        self.inner.buffered_bytes()
    }

    fn set_byte_limit(&mut self, bytes: usize) {
        self.inner.set_byte_limit(bytes);
    }

    fn remind(&mut self) {
        self.inner.remind();
    }

    fn abandon_connection(&self) {
        self.inner.abandon_connection();
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}
