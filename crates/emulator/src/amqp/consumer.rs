//! Receiver links of peers: from the log of a partition to transfers.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::codec::Value;
use super::codec::descriptor;
use super::codec::encode::{put_descriptor, put_value};
use super::delivery::{Credit, Delivery, Route, Windows};
use super::disturbed::{Disturbed, disturb};
use super::fault_rules::{Effect, FaultRules};
use super::limits::OUTPUT_HIGH_WATER;
use super::output::Output;
use crate::broker::{LogState, StoredEvent, Subscription};

/// One look into the log: enough for a full socket buffer, little enough that other links of the
/// connection get their turn.
const READ_EVENTS: usize = 256;
const READ_BYTES: usize = 128 * 1024;

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) subscription: Subscription,
    /// The sequence number of the next event to send.
    pub(crate) next: i64,
    pub(crate) settled: bool,
    /// The peer wants to know how far the partition is with each event.
    pub(crate) with_metrics: bool,
    pub(crate) credit: Credit,
    pub(crate) unsent: Option<Delivery>,
    /// Events read ahead because a fault changes their order or number.
    pub(crate) disturbed: VecDeque<Disturbed>,
}

/// Why a pump stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Nothing to do until an event, credit or window comes.
    Idle,
    /// There may be more to send right away.
    More,
    /// The session window is used up.
    NoWindow,
    /// The event hub gives nothing more until then.
    Throttled(Instant),
}

impl Consumer {
    /// The event hub and the partition, for the scopes of faults.
    pub(crate) fn place(&self) -> (Option<&str>, Option<&str>) {
        let hub = self.subscription.hub().name();
        (Some(hub), Some(self.subscription.partition().id()))
    }

    /// Sends what credit, window and one look into the log allow.
    pub(crate) fn pump(
        &mut self,
        windows: &mut Windows,
        route: Route,
        faults: &FaultRules,
        output: &mut Output,
        now: Instant,
    ) -> Pumped {
        if let Some(unsent) = &mut self.unsent {
            if !unsent.send(windows, route, output) {
                return Pumped::NoWindow;
            }
            self.unsent = None;
        }
        if self.credit.left == 0 {
            return Pumped::Idle;
        }
        let throttle = self.subscription.hub().throttle.as_ref();
        if let Some(wait) = throttle.and_then(|throttle| throttle.wait(now)) {
            return Pumped::Throttled(now + wait);
        }
        let before = output.len();
        let count = self.credit.delivery_count;
        let pumped = self.send_events(windows, route, faults, output);
        let sent = self.credit.delivery_count.wrapping_sub(count);
        self.subscription.note(sent, self.next);
        if let Some(throttle) = &self.subscription.hub().throttle {
            throttle.give(output.len() - before);
        }
        pumped
    }

    /// Sends what one look into the log gives.
    fn send_events(
        &mut self,
        windows: &mut Windows,
        route: Route,
        faults: &FaultRules,
        output: &mut Output,
    ) -> Pumped {
        if faults.is_armed() {
            let (hub, partition) = self.place();
            if faults.strikes(hub, partition, &Effect::WithholdDeliveries) {
                return Pumped::Idle;
            }
            self.over_send(faults);
        }
        if !self.disturbed.is_empty() {
            return self.send_disturbed(windows, route, output);
        }
        let max_events = READ_EVENTS.min(self.credit.left as usize);
        let batch = self.subscription.read(self.next, max_events, READ_BYTES);
        if batch.events.is_empty() {
            self.next = batch.next;
            return Pumped::Idle;
        }
        if faults.is_armed() {
            let (hub, partition) = self.place();
            let disturbed = disturb(batch.events, faults, hub, partition);
            self.disturbed = disturbed;
            self.next = batch.next;
            return self.send_disturbed(windows, route, output);
        }
        let metrics = self.metrics(&batch.state);
        self.next = batch.next - batch.events.len() as i64;
        for event in batch.events {
            if windows.remote_left == 0 {
                return Pumped::NoWindow;
            }
            self.next += 1;
            self.credit.use_one();
            let mut delivery = Delivery::start(windows, parts(&event, &metrics));
            if !delivery.send(windows, route, output) {
                self.unsent = Some(delivery);
                return Pumped::NoWindow;
            }
            if output.len() >= OUTPUT_HIGH_WATER {
                break;
            }
        }
        Pumped::More
    }
}

impl Consumer {
    pub(super) fn metrics(&self, state: &LogState) -> Bytes {
        if self.with_metrics {
            metrics(state, self.subscription.hub().clock().now_ms())
        } else {
            Bytes::new()
        }
    }
}

/// PROTOCOL: delivery annotations stand between the header and the rest.
pub(super) fn parts(event: &StoredEvent, metrics: &Bytes) -> [Bytes; 3] {
    if metrics.is_empty() {
        return [event.encoded.clone(), Bytes::new(), Bytes::new()];
    }
    let header = event.encoded.slice(..event.header_len);
    [
        header,
        metrics.clone(),
        event.encoded.slice(event.header_len..),
    ]
}

/// INTEROP: Java wants all four with exactly these types.
fn metrics(state: &LogState, now_ms: i64) -> Bytes {
    let symbol = |name: &str| Value::Symbol(name.to_owned());
    let offset = state
        .last_offset
        .map_or_else(|| "-1".to_owned(), |offset| offset.to_string());
    let map = Value::Map(vec![
        (
            symbol("last_enqueued_sequence_number"),
            Value::Long(state.last_sequence_number),
        ),
        (symbol("last_enqueued_offset"), Value::String(offset)),
        (
            symbol("last_enqueued_time_utc"),
            Value::Timestamp(state.last_enqueued_ms),
        ),
        (
            symbol("runtime_info_retrieval_time_utc"),
            Value::Timestamp(now_ms),
        ),
    ]);
    let mut buf = BytesMut::new();
    put_descriptor(&mut buf, descriptor::DELIVERY_ANNOTATIONS);
    put_value(&mut buf, &map);
    buf.freeze()
}
