//! Deliveries as faults want them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::codec::Value;
use super::codec::descriptor;
use super::codec::encode::{put_descriptor, put_value};
use super::consumer::{Consumer, Pumped, parts};
use super::delivery::{Delivery, Route, Windows};
use super::fault_rules::{Effect, FaultRules};
use super::output::Output;
use crate::broker::StoredEvent;

/// An event that was read ahead, and how it is to be sent.
#[derive(Debug)]
pub(crate) enum Disturbed {
    Plain(StoredEvent),
    /// Half of it, then an abort, then again as a whole.
    Aborted(StoredEvent),
    /// The frames of two, one after the other in turn.
    Interleaved(StoredEvent, StoredEvent),
    /// With the delivery id of the one before.
    WithOldId(StoredEvent),
}

/// What becomes of the events of one look into the log.
pub(crate) fn disturb(
    events: Vec<StoredEvent>,
    faults: &FaultRules,
    hub: Option<&str>,
    partition: Option<&str>,
) -> VecDeque<Disturbed> {
    let strikes = |effect| faults.strikes(hub, partition, &effect);
    let padding = || {
        faults.take(hub, partition, |effect| match effect {
            Effect::InflateDelivery(bytes) => Some(*bytes),
            _ => None,
        })
    };
    let mut disturbed = VecDeque::with_capacity(events.len());
    let mut events = events.into_iter().peekable();
    while let Some(mut event) = events.next() {
        if strikes(Effect::SkipDelivery) {
            continue;
        }
        if let Some(bytes) = padding() {
            event.encoded = padded(&event.encoded, bytes);
        }
        if strikes(Effect::DuplicateDelivery) {
            disturbed.push_back(Disturbed::Plain(event.clone()));
        }
        if events.peek().is_some() && strikes(Effect::ReorderDeliveries) {
            disturbed.extend(events.next().map(Disturbed::Plain));
        }
        let is_interleaved = events.peek().is_some() && strikes(Effect::InterleaveDeliveries);
        let partner = events.next_if(|_| is_interleaved);
        disturbed.push_back(match partner {
            Some(partner) => Disturbed::Interleaved(event, partner),
            None if strikes(Effect::AbortDelivery) => Disturbed::Aborted(event),
            None if strikes(Effect::RepeatDeliveryId) => Disturbed::WithOldId(event),
            None => Disturbed::Plain(event),
        });
    }
    disturbed
}

/// The same message with so many bytes in its footer.
fn padded(encoded: &Bytes, bytes: usize) -> Bytes {
    let key = Value::Symbol("x-opt-padding".to_owned());
    let padding = Value::Binary(vec![0; bytes].into());
    let mut buf = BytesMut::from(&encoded[..]);
    put_descriptor(&mut buf, descriptor::FOOTER);
    put_value(&mut buf, &Value::Map(vec![(key, padding)]));
    buf.freeze()
}

impl Consumer {
    /// Takes more credit than the peer has given.
    pub(super) fn over_send(&mut self, faults: &FaultRules) {
        let (hub, partition) = self.place();
        let extra = faults.take(hub, partition, |effect| match effect {
            Effect::OverSend(extra) => Some(*extra),
            _ => None,
        });
        self.credit.left = self.credit.left.saturating_add(extra.unwrap_or(0));
    }

    pub(super) fn send_disturbed(
        &mut self,
        windows: &mut Windows,
        route: Route,
        output: &mut Output,
    ) -> Pumped {
        let metrics = self.metrics(&self.subscription.partition().state());
        while self.credit.left > 0 {
            if windows.remote_left == 0 {
                return Pumped::NoWindow;
            }
            let Some(next) = self.disturbed.pop_front() else {
                return Pumped::More;
            };
            let event = match next {
                Disturbed::Plain(event) => event,
                Disturbed::Aborted(event) => {
                    self.send_and_abort(windows, route, output, &event, &metrics);
                    self.disturbed.push_front(Disturbed::Plain(event));
                    continue;
                }
                Disturbed::Interleaved(one, other) => {
                    if !self.interleave(windows, route, output, [&one, &other], &metrics) {
                        self.disturbed.push_front(Disturbed::Plain(other));
                        self.disturbed.push_front(Disturbed::Plain(one));
                    }
                    continue;
                }
                Disturbed::WithOldId(event) => {
                    windows.next_delivery_id = windows.next_delivery_id.wrapping_sub(1);
                    event
                }
            };
            self.credit.use_one();
            let mut delivery = Delivery::start(windows, parts(&event, &metrics));
            if !delivery.send(windows, route, output) {
                self.unsent = Some(delivery);
                return Pumped::NoWindow;
            }
        }
        Pumped::Idle
    }

    /// PROTOCOL: a delivery that was begun has taken its credit, whatever becomes of it.
    fn send_and_abort(
        &mut self,
        windows: &mut Windows,
        route: Route,
        output: &mut Output,
        event: &StoredEvent,
        metrics: &Bytes,
    ) {
        self.credit.use_one();
        let mut delivery = Delivery::start(windows, parts(event, metrics));
        let half = delivery.len() / 2;
        delivery.send_frame(windows, route, output, half.max(1));
        delivery.abort(windows, route, output);
    }

    /// False if credit or window are too small for two at once.
    fn interleave(
        &mut self,
        windows: &mut Windows,
        route: Route,
        output: &mut Output,
        events: [&StoredEvent; 2],
        metrics: &Bytes,
    ) -> bool {
        let frames = events.map(|event| route.frames(event.encoded.len() + metrics.len()));
        let is_possible = windows.remote_left > frames.iter().sum() && self.credit.left >= 2;
        if !is_possible {
            return false;
        }
        let mut deliveries = events.map(|event| {
            self.credit.use_one();
            Delivery::start(windows, parts(event, metrics))
        });
        let mut is_first = true;
        let mut are_open = [true; 2];
        while are_open.contains(&true) {
            for (delivery, is_open) in deliveries.iter_mut().zip(&mut are_open) {
                let most = match is_first {
                    true => (delivery.len() / 2).max(1),
                    false => usize::MAX,
                };
                *is_open = *is_open && delivery.send_frame(windows, route, output, most);
            }
            is_first = false;
        }
        true
    }
}
