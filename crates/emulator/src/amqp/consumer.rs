//! Receiver links of peers: from the log of a partition to transfers.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::codec::Value;
use super::codec::descriptor;
use super::codec::encode::{put_descriptor, put_value};
use super::delivery::{Credit, Delivery, Route, Windows};
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
    /// Sends what credit, window and one look into the log allow.
    pub(crate) fn pump(
        &mut self,
        windows: &mut Windows,
        route: Route,
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
        let pumped = self.send_events(windows, route, output);
        if let Some(throttle) = &self.subscription.hub().throttle {
            throttle.give(output.len() - before);
        }
        pumped
    }

    /// Sends what one look into the log gives.
    fn send_events(&mut self, windows: &mut Windows, route: Route, output: &mut Output) -> Pumped {
        let max_events = READ_EVENTS.min(self.credit.left as usize);
        let batch = self.subscription.read(self.next, max_events, READ_BYTES);
        if batch.events.is_empty() {
            self.next = batch.next;
            return Pumped::Idle;
        }
        let metrics = if self.with_metrics {
            metrics(&batch.state, self.subscription.hub().clock().now_ms())
        } else {
            Bytes::new()
        };
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

/// PROTOCOL: delivery annotations stand between the header and the rest.
fn parts(event: &StoredEvent, metrics: &Bytes) -> [Bytes; 3] {
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
