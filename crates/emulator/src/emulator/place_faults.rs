//! Faults of event hubs as a whole, of TLS and of WebSockets.

use super::faults::{error, scope};
use super::{EmulatorError, Faults, entities};
use crate::amqp::errors::{condition, disabled};
use crate::amqp::fault_rules::{Effect, Scope};
use crate::amqp::{EventLinks, Signal, TlsFault, WebSocketOrder};

/// Event hubs and the namespace.
impl Faults {
    /// Moves a geo-replicated namespace to its other region: offsets from before are good no more,
    /// and all connections are closed as when a region goes down. No event is lost.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::NotGeoReplicated`] without
    /// [`with_geo_replication`](crate::EmulatorBuilder::with_geo_replication), and
    /// [`EmulatorError::Data`] if a data directory cannot be written.
    pub fn fail_over(&self) -> Result<(), EmulatorError> {
        let broker = &self.service.broker;
        if !broker.is_geo_replicated() {
            return Err(EmulatorError::NotGeoReplicated);
        }
        broker
            .fail_over()
            .map_err(|error| EmulatorError::Data(error.to_string()))?;
        let text = "The namespace has failed over to its secondary region.";
        self.service
            .broadcast(|| Signal::Close(error(condition::CONNECTION_FORCED, text)));
        self.service.faults.note("fail_over");
        Ok(())
    }

    /// Deletes an event hub and makes it again with as many partitions: sequence numbers and
    /// offsets start anew, and who uses it is detached with `amqp:not-found`.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or a data directory cannot be written.
    pub fn recreate_hub(&self, hub: &str) -> Result<(), EmulatorError> {
        entities::recreate(&self.service, hub)?;
        self.service.faults.note("recreate_hub");
        Ok(())
    }

    /// While on, an event hub is disabled: who uses it is detached, and new attaches are refused,
    /// with `com.microsoft:entity-disabled`.
    pub fn disable_hub(&self, hub: &str, is_disabled: bool) {
        self.on_hub(hub).switch(&Effect::DisableHub, is_disabled);
        if is_disabled {
            self.detach(hub, None, EventLinks::Both, &disabled(hub));
        }
    }

    /// Closes all connections with `amqp:connection:redirect`, to another host.
    pub fn redirect_connections(&self, host: &str, port: u16) {
        let text = "The connection has to be made elsewhere.";
        let error = error(condition::CONNECTION_REDIRECT, text).to(host, port);
        self.tell(|| Signal::Close(error.clone()));
        self.service.faults.note("redirect_connections");
    }

    /// Detaches receivers and senders with `amqp:link:redirect`, to another host.
    pub fn redirect_links(&self, hub: &str, partition: Option<&str>, host: &str, port: u16) {
        let text = "The link has to be attached elsewhere.";
        let error = error(condition::LINK_REDIRECT, text).to(host, port);
        self.detach(hub, partition, EventLinks::Both, &error);
        self.service.faults.note("redirect_links");
    }
}

/// Single deliveries.
impl Faults {
    /// Sends half of the next `times` events to receivers there, takes it back with an abort, and
    /// sends the event as a whole afterwards.
    pub fn abort_deliveries(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::AbortDelivery, scope(hub, partition), times);
    }

    /// Sends the frames of the next `times` pairs of events that a receiver there would get
    /// together in turn, which the standard forbids.
    pub fn interleave_deliveries(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::InterleaveDeliveries, scope(hub, partition), times);
    }

    /// Puts so many bytes into the footer of the next `times` events to receivers there: more than
    /// a link said it takes, if wanted.
    pub fn inflate_deliveries(&self, hub: &str, partition: Option<&str>, bytes: usize, times: u32) {
        let effect = Effect::InflateDelivery(bytes);
        self.add(effect, scope(hub, partition), times);
    }

    /// Gives the next `times` deliveries to receivers there the delivery id of the one before.
    pub fn repeat_delivery_ids(&self, hub: &str, partition: Option<&str>, times: u32) {
        self.add(Effect::RepeatDeliveryId, scope(hub, partition), times);
    }
}

/// What lies below AMQP.
impl Faults {
    /// While on, all AMQP ports are closed: connections are refused by the system, and open ones
    /// stay as they are.
    pub fn refuse_connections(&self, is_refusing: bool) {
        self.service
            .pace
            .send_modify(|pace| pace.is_down = is_refusing);
        if is_refusing {
            self.service.faults.note("refuse_connections");
        }
    }

    /// Has something wrong in the next `times` TLS handshakes.
    pub fn disturb_tls(&self, fault: TlsFault, times: u32) {
        self.add(Effect::DisturbTls(fault), Scope::default(), times);
    }

    /// Refuses the next `times` upgrades to a WebSocket with an HTTP status, such as 403. A number
    /// that is none becomes 403.
    pub fn refuse_upgrades(&self, status: u16, times: u32) {
        self.add(Effect::RefuseUpgrade(status), Scope::default(), times);
    }

    /// Sends the next `times` messages of WebSockets in frames of at most `bytes` bytes, with a
    /// ping between each two of them.
    pub fn fragment_web_sockets(&self, bytes: usize, times: u32) {
        self.add(Effect::FragmentMessages(bytes), Scope::default(), times);
    }

    /// Sends a close frame on all open WebSockets, and nothing of AMQP; how many there were. Codes
    /// are those of RFC 6455, such as 1001 for a server that goes away.
    pub fn close_web_sockets(&self, code: u16, reason: &str) -> usize {
        let count = self.order(|| WebSocketOrder::Close {
            code,
            reason: reason.to_owned(),
        });
        self.service.faults.note("close_web_sockets");
        count
    }

    /// Sends so many pings at once on all open WebSockets; how many of those there were.
    pub fn ping_web_sockets(&self, count: u32) -> usize {
        let told = self.order(|| WebSocketOrder::Ping { count });
        self.service.faults.note("ping_web_sockets");
        told
    }
}
