//! Faults of the Event Hubs side, for tests of clients.

use std::sync::Arc;

use crate::amqp::errors::AmqpError;
use crate::amqp::{Service, Signal};
use crate::broker::lock;

/// Disturbs connections, sessions and links on purpose.
///
/// From [`Emulator::faults`](crate::Emulator::faults). Conditions are AMQP symbols as the service
/// uses them, such as `amqp:link:detach-forced` or `com.microsoft:server-busy`. What is already
/// connected is disturbed at once; `refuse_attaches` and `answer_cbs` wait for their occasion.
#[derive(Debug, Clone)]
pub struct Faults {
    service: Arc<Service>,
}

impl Faults {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Detaches the receivers of one partition, or of all partitions of the event hub.
    pub fn detach_receivers(
        &self,
        hub: &str,
        partition: Option<&str>,
        condition: &str,
        description: &str,
    ) {
        self.service.broadcast(|| Signal::DetachReceivers {
            hub: hub.to_owned(),
            partition: partition.map(str::to_owned),
            error: error(condition, description),
        });
    }

    /// Ends all sessions of all connections.
    pub fn end_sessions(&self, condition: &str, description: &str) {
        self.service
            .broadcast(|| Signal::EndSessions(error(condition, description)));
    }

    /// Closes all connections with an error.
    pub fn close_connections(&self, condition: &str, description: &str) {
        self.service
            .broadcast(|| Signal::Close(error(condition, description)));
    }

    /// Resets all TCP connections without a close.
    pub fn drop_connections(&self) {
        self.service.broadcast(|| Signal::Cut);
    }

    /// Refuses the next `times` attaches of receivers and senders to a partition, or to any
    /// partition and the event hub itself.
    pub fn refuse_attaches(
        &self,
        hub: &str,
        partition: Option<&str>,
        condition: &str,
        description: &str,
        times: u32,
    ) {
        if times > 0 {
            let error = error(condition, description);
            let partition = partition.map(str::to_owned);
            lock(&self.service.faults).refuse(hub.to_owned(), partition, error, times);
        }
    }

    /// Answers the next `times` put-token requests with this status.
    pub fn answer_cbs(&self, status: i32, times: u32) {
        if times > 0 {
            lock(&self.service.faults).answer_cbs(status, times);
        }
    }

    /// While on, keeps all sockets open, those to come included, and neither reads nor writes.
    pub fn freeze_connections(&self, is_frozen: bool) {
        self.service.frozen.send_replace(is_frozen);
    }

    /// While on, new attaches get no answer.
    pub fn ignore_attaches(&self, is_ignoring: bool) {
        lock(&self.service.faults).ignore_attaches = is_ignoring;
    }

    /// While on, new senders get no credit and those that have some get no more.
    pub fn withhold_credit(&self, is_withholding: bool) {
        lock(&self.service.faults).withhold_credit = is_withholding;
    }

    /// Takes back everything that waits or lasts.
    pub fn clear(&self) {
        lock(&self.service.faults).clear();
        self.freeze_connections(false);
    }
}

fn error(condition: &str, description: &str) -> AmqpError {
    AmqpError::new(condition.to_owned(), description)
}
