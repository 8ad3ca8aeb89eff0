//! One receiver of one partition.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventhubs_processor::error::TransportErrorKind;
use tokio::sync::Notify;

use super::{HEARTBEAT, IDLE_TIMEOUT, SimHub};
use crate::history::{Happening, Member, Partition, Time};

/// The service's side of a receiver.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) member: Member,
    pub(crate) partition: Partition,
    pub(crate) level: Option<i64>,
    ended: Mutex<Option<TransportErrorKind>>,
    changed: Notify,
}

impl Link {
    pub(crate) fn new(id: u64, member: Member, partition: Partition, level: Option<i64>) -> Self {
        Self {
            id,
            member,
            partition,
            level,
            ended: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn end(&self, kind: TransportErrorKind) {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(kind);
        self.wake();
    }

    pub(crate) fn detached(&self) -> Happening {
        Happening::Detached {
            member: self.member,
            partition: self.partition,
            link: self.id,
        }
    }

    fn ended(&self) -> Option<TransportErrorKind> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's side of a receiver. Dropping it detaches.
#[derive(Debug)]
pub(crate) struct Receiver {
    hub: SimHub,
    link: Arc<Link>,
    after: i64,
}

impl Receiver {
    pub(crate) fn new(hub: SimHub, link: Arc<Link>, after: i64) -> Self {
        Self { hub, link, after }
    }

    /// Waits for events: their sequence numbers and when they were enqueued. Cancel safe.
    pub(crate) async fn receive(
        &mut self,
        max: usize,
    ) -> Result<Vec<(i64, Time)>, TransportErrorKind> {
        loop {
            if let Some(silence) = self.silence() {
                if silence >= IDLE_TIMEOUT {
                    return Err(TransportErrorKind::ConnectionLost);
                }
                // What comes first: the idle timeout or news. A link that the hub dropped meanwhile gets none; its next
                // heartbeat tells once the way is free.
                let left = Duration::from_millis((IDLE_TIMEOUT - silence).min(HEARTBEAT));
                let _ = tokio::time::timeout(left, self.link.changed.notified()).await;
                continue;
            }
            if let Some(kind) = self.link.ended() {
                return Err(kind);
            }
            let enqueued = self.hub.events_after(self.link.partition, self.after, max);
            if !enqueued.is_empty() {
                let first = self.after + 1;
                self.after += enqueued.len() as i64;
                return Ok((first..).zip(enqueued).collect());
            }
            self.link.changed.notified().await;
        }
    }
}

impl Receiver {
    /// For how long the hub has not been heard on this link, if it is silent.
    pub(crate) fn silence(&self) -> Option<Time> {
        let since = self.hub.silent_since(self.link.member)?;
        Some(self.hub.world.now() - since)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.hub.detach(&self.link);
    }
}
