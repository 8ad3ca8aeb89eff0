//! Faults of the Event Hubs side, for tests of clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::amqp::errors::AmqpError;
use crate::amqp::fault_rules::{ActiveFault, Effect, Frequency, Scope};
use crate::amqp::{BadFrame, EventLinks, ReplyFault, ResetStage, Service, Signal, WebSocketOrder};

/// Disturbs connections, sessions and links on purpose.
///
/// From [`Emulator::faults`](crate::Emulator::faults). Conditions are AMQP symbols as the service
/// uses them, such as `amqp:link:detach-forced` or `com.microsoft:server-busy`. What is already
/// connected is disturbed at once; faults with a number of `times` wait for their occasion, and
/// [`with_chance`](Self::with_chance) makes them act on a share of their occasions only.
///
/// Where a partition may be given, none means all partitions of the event hub and itself. What is
/// about connections, and the switches, can be narrowed by [`on_connection`](Self::on_connection),
/// [`on_hub`](Self::on_hub) and [`on_partition`](Self::on_partition).
#[derive(Debug, Clone)]
pub struct Faults {
    pub(super) service: Arc<Service>,
    chance: Option<f64>,
    connection: Option<u64>,
    pub(super) place: Scope,
}

impl Faults {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            chance: None,
            connection: None,
            place: Scope::default(),
        }
    }

    /// The same faults, of which those ordered here act on this share of their occasions, from 0
    /// to 1. Chance follows from [`seed`](Self::seed).
    #[must_use]
    pub fn with_chance(&self, chance: f64) -> Self {
        Self {
            chance: Some(chance),
            ..self.clone()
        }
    }

    /// The same faults, of which those that disturb whole connections at once, ordered here, meet
    /// only this one. [`Emulator::status`](crate::Emulator::status) and the control port
    /// tell the numbers.
    #[must_use]
    pub fn on_connection(&self, id: u64) -> Self {
        Self {
            connection: Some(id),
            ..self.clone()
        }
    }

    /// The same faults, of which those that disturb whole connections or sessions at once, and the
    /// switches, ordered here, meet only those with a receiver or sender of this event hub.
    #[must_use]
    pub fn on_hub(&self, hub: &str) -> Self {
        Self {
            place: Scope::of(hub, None),
            ..self.clone()
        }
    }

    /// As [`on_hub`](Self::on_hub), for one partition.
    #[must_use]
    pub fn on_partition(&self, hub: &str, partition: &str) -> Self {
        Self {
            place: Scope::of(hub, Some(partition)),
            ..self.clone()
        }
    }

    /// Starts chance anew: the same seed and the same occasions in the same order give the same
    /// faults.
    pub fn seed(&self, seed: u64) {
        self.service.faults.seed(seed);
    }

    /// Detaches the receivers of one partition, or of all partitions of the event hub.
    pub fn detach_receivers(
        &self,
        hub: &str,
        partition: Option<&str>,
        condition: &str,
        description: &str,
    ) {
        let error = error(condition, description);
        self.detach(hub, partition, EventLinks::Receivers, &error);
        self.service.faults.note("detach_receivers");
    }

    /// Detaches the senders to one partition, or to all partitions of the event hub and itself.
    pub fn detach_senders(
        &self,
        hub: &str,
        partition: Option<&str>,
        condition: &str,
        description: &str,
    ) {
        let error = error(condition, description);
        self.detach(hub, partition, EventLinks::Senders, &error);
        self.service.faults.note("detach_senders");
    }

    /// Ends all sessions of all connections.
    pub fn end_sessions(&self, condition: &str, description: &str) {
        self.service.tell(self.connection, || {
            Signal::EndSessions(self.place.clone(), error(condition, description))
        });
        self.service.faults.note("end_sessions");
    }

    /// Closes all connections with an error.
    pub fn close_connections(&self, condition: &str, description: &str) {
        self.tell(|| Signal::Close(error(condition, description)));
        self.service.faults.note("close_connections");
    }

    /// Resets all TCP connections without a close.
    pub fn drop_connections(&self) {
        self.tell(|| Signal::Cut);
        self.service.faults.note("drop_connections");
    }

    /// Lets all tokens end: what the connections were granted is forgotten, and their receivers and
    /// senders at the place are detached with `amqp:unauthorized-access`.
    pub fn expire_tokens(&self, hub: &str, partition: Option<&str>) {
        let scope = scope(hub, partition);
        self.service
            .broadcast(|| Signal::ExpireTokens(scope.clone()));
        self.service.faults.note("expire_tokens");
    }

    /// Sends a frame that is none on all open connections.
    pub fn send_bad_frame(&self, frame: BadFrame) {
        self.tell(|| Signal::BadFrame(frame));
        self.service.faults.note("send_bad_frame");
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
        let effect = Effect::RefuseAttach(error(condition, description));
        self.add(effect, scope(hub, partition), times);
    }

    /// Answers the next `times` put-token requests with this status.
    pub fn answer_cbs(&self, status: i32, times: u32) {
        self.disturb_cbs(ReplyFault::Status { status }, times);
    }

    /// Disturbs the replies to the next `times` put-token requests. A lost reply is to a request
    /// that took effect.
    pub fn disturb_cbs(&self, how: ReplyFault, times: u32) {
        self.add(Effect::ReplyCbs(how), Scope::default(), times);
    }

    /// Disturbs the replies to the next `times` requests for properties of the event hub and its
    /// partitions.
    pub fn disturb_management(&self, hub: &str, how: ReplyFault, times: u32) {
        self.add(Effect::ReplyManagement(how), scope(hub, None), times);
    }

    /// Names only the first `partitions` in the next `times` descriptions of the event hub.
    pub fn show_fewer_partitions(&self, hub: &str, partitions: u32, times: u32) {
        let effect = Effect::FewerPartitions(partitions);
        self.add(effect, scope(hub, None), times);
    }

    /// Resets the connections of the next `times` peers that reach a stage.
    pub fn reset_at(&self, stage: ResetStage, times: u32) {
        self.add(Effect::ResetAt(stage), Scope::default(), times);
    }

    /// As [`reset_at`](Self::reset_at), for one event hub or partition; of use for the stages that
    /// are about a link: attach, flow, transfer and detach.
    pub fn reset_at_link(&self, stage: ResetStage, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::ResetAt(stage), scope(hub, partition), times);
    }

    /// Resets the next `times` connections that send anything, open or new, once they have sent
    /// this many more bytes: within a frame, if the number wants it.
    pub fn reset_after_bytes(&self, bytes: usize, times: u32) {
        self.add(Effect::ResetAfterBytes(bytes), Scope::default(), times);
    }

    /// Stores the next `times` messages that are sent there and resets their connection before it
    /// is told.
    pub fn reset_after_store(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::ResetAfterStore, scope(hub, partition), times);
    }

    /// Stores the next `times` messages that are sent there and never tells.
    pub fn lose_dispositions(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::LoseDisposition, scope(hub, partition), times);
    }

    /// Rejects the next `times` messages that are sent there.
    pub fn reject_messages(
        &self,
        hub: &str,
        partition: Option<&str>,
        condition: &str,
        description: &str,
        times: u32,
    ) {
        let effect = Effect::RejectMessage(error(condition, description));
        self.add(effect, scope(hub, partition), times);
    }

    /// Sends the next `times` events to receivers there twice.
    pub fn duplicate_deliveries(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::DuplicateDelivery, scope(hub, partition), times);
    }

    /// Swaps the next `times` pairs of events that a receiver there would get together.
    pub fn reorder_deliveries(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::ReorderDeliveries, scope(hub, partition), times);
    }

    /// Leaves out the next `times` events for receivers there: a gap in the sequence numbers.
    pub fn skip_deliveries(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::SkipDelivery, scope(hub, partition), times);
    }

    /// Sends the next `times` receivers there, when they have given credit, up to `extra` events
    /// beyond it.
    pub fn over_send(&self, hub: &str, partition: Option<&str>, extra: u32, times: u32) {
        self.add(Effect::OverSend(extra), scope(hub, partition), times);
    }

    /// Gives no answer to the next `times` detaches of receivers and senders there.
    pub fn ignore_detaches(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::IgnoreDetach, scope(hub, partition), times);
    }

    /// While on, keeps all sockets open, those to come included, and neither reads nor writes.
    pub fn freeze_connections(&self, is_frozen: bool) {
        self.service
            .pace
            .send_modify(|pace| pace.is_frozen = is_frozen);
        if is_frozen {
            self.service.faults.note("freeze_connections");
        }
    }

    /// Holds everything that is sent back for this long, until [`clear`](Self::clear) or a delay of
    /// zero.
    pub fn delay(&self, delay: Duration) {
        self.service.pace.send_modify(|pace| pace.delay = delay);
        self.service.faults.note("delay");
    }

    /// While on, new attaches get no answer.
    pub fn ignore_attaches(&self, is_ignoring: bool) {
        self.switch(&Effect::IgnoreAttach, is_ignoring);
    }

    /// While on, new senders get no credit and those that have some get no more.
    pub fn withhold_credit(&self, is_withholding: bool) {
        self.switch(&Effect::WithholdCredit, is_withholding);
    }

    /// While on, receivers get no events, whatever credit they have given.
    pub fn withhold_deliveries(&self, is_withholding: bool) {
        self.switch(&Effect::WithholdDeliveries, is_withholding);
        if !is_withholding {
            self.service.broadcast(|| Signal::Resume);
        }
    }

    /// How often each fault has acted, by its name on the control port.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.service.faults.counts().into_iter();
        counts
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    }

    /// Takes back everything that waits or lasts.
    pub fn clear(&self) {
        self.service.faults.clear();
        self.service.pace.send_replace(Default::default());
        self.service.broadcast(|| Signal::Resume);
    }

    pub(crate) fn active(&self) -> Vec<ActiveFault> {
        self.service.faults.active()
    }

    pub(crate) fn pace(&self) -> crate::amqp::Pace {
        *self.service.pace.borrow()
    }

    pub(super) fn detach(
        &self,
        hub: &str,
        partition: Option<&str>,
        links: EventLinks,
        error: &AmqpError,
    ) {
        let scope = scope(hub, partition);
        self.service.broadcast(|| Signal::DetachLinks {
            scope: scope.clone(),
            links,
            error: error.clone(),
        });
    }

    pub(super) fn add(&self, effect: Effect, scope: Scope, times: u32) {
        let frequency = Frequency {
            times: Some(times),
            chance: self.chance,
        };
        self.service.faults.add(effect, scope, frequency);
    }

    pub(super) fn switch(&self, effect: &Effect, is_on: bool) {
        let place = self.place.clone();
        self.service.faults.switch(effect, place, is_on);
    }

    /// Tells the connections that are meant.
    pub(super) fn tell(&self, signal: impl Fn() -> Signal) {
        let is_everywhere = self.place.is_everything();
        self.service.tell(self.connection, || match is_everywhere {
            true => signal(),
            false => Signal::At(self.place.clone(), Box::new(signal())),
        });
    }

    pub(super) fn order(&self, order: impl Fn() -> WebSocketOrder) -> usize {
        self.service.order(self.connection, order)
    }
}

pub(super) fn scope(hub: &str, partition: Option<&str>) -> Scope {
    Scope::of(hub, partition)
}

pub(super) fn error(condition: &str, description: &str) -> AmqpError {
    AmqpError::new(condition.to_owned(), description)
}
