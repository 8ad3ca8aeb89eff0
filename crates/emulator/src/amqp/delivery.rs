//! Outgoing deliveries: credit, session window, frames.

use bytes::{Buf, Bytes};

use super::codec::outgoing::{self, TRANSFER_OVERHEAD, TransferHead};
use super::output::Output;

/// Transfer numbers and windows of a session.
#[derive(Debug)]
pub(crate) struct Windows {
    pub(crate) next_incoming_id: u32,
    /// Transfers the peer may still send.
    pub(crate) incoming_left: u32,
    pub(crate) next_outgoing_id: u32,
    /// Transfers the peer will still take.
    pub(crate) remote_left: u32,
    pub(crate) next_delivery_id: u32,
}

impl Windows {
    /// Takes the window a peer states in a flow.
    pub(crate) fn update_remote(&mut self, next_incoming_id: Option<u32>, window: u32) {
        // PROTOCOL: a null id means that the peer has not seen our begin yet (AMQP 2.7.4).
        let seen = next_incoming_id.unwrap_or(super::session::FIRST_OUTGOING_ID);
        let on_the_way = self.next_outgoing_id.wrapping_sub(seen);
        self.remote_left = window.saturating_sub(on_the_way);
    }
}

/// Credit of a link on which we send.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    pub(crate) delivery_count: u32,
    pub(crate) left: u32,
    pub(crate) drain: bool,
}

impl Credit {
    /// PROTOCOL: AMQP 2.6.7; counts wrap around.
    pub(crate) fn update(&mut self, peer_count: Option<u32>, link_credit: u32, drain: bool) {
        let limit = peer_count.unwrap_or(0).wrapping_add(link_credit);
        let left = limit.wrapping_sub(self.delivery_count);
        // A limit behind our count is a credit below zero: the peer reduced it while deliveries
        // were on their way.
        let behind = self.delivery_count.wrapping_sub(peer_count.unwrap_or(0));
        self.left = if behind > link_credit { 0 } else { left };
        self.drain = drain;
    }

    pub(crate) fn use_one(&mut self) {
        self.delivery_count = self.delivery_count.wrapping_add(1);
        self.left = self.left.saturating_sub(1);
    }

    /// Gives up what is left, as a drain asks for.
    pub(crate) fn drain_rest(&mut self) {
        self.delivery_count = self.delivery_count.wrapping_add(self.left);
        self.left = 0;
        self.drain = false;
    }
}

/// A message of which maybe a part is sent.
#[derive(Debug)]
pub(crate) struct Delivery {
    id: u32,
    parts: [Bytes; 3],
}

/// Where the frames of a delivery go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) channel: u16,
    pub(crate) handle: u32,
    pub(crate) settled: bool,
    pub(crate) max_frame: usize,
}

impl Route {
    /// Payload of one frame.
    fn room(self) -> usize {
        self.max_frame.saturating_sub(TRANSFER_OVERHEAD).max(1)
    }

    /// Frames a payload may take if its first one is only half of it.
    pub(crate) fn frames(self, payload: usize) -> u32 {
        u32::try_from(payload.div_ceil(self.room()))
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }
}

impl Delivery {
    /// Starts a delivery; the credit for it must have been taken.
    pub(crate) fn start(windows: &mut Windows, parts: [Bytes; 3]) -> Self {
        let id = windows.next_delivery_id;
        windows.next_delivery_id = id.wrapping_add(1);
        Self { id, parts }
    }

    /// Sends as many frames as the session window takes; true if that was all of it.
    pub(crate) fn send(
        &mut self,
        windows: &mut Windows,
        route: Route,
        output: &mut Output,
    ) -> bool {
        loop {
            if windows.remote_left == 0 {
                return false;
            }
            if !self.send_frame(windows, route, output, usize::MAX) {
                return true;
            }
        }
    }

    /// Sends one frame with at most so many bytes; true if there is more to send. The session
    /// window has to have room.
    pub(crate) fn send_frame(
        &mut self,
        windows: &mut Windows,
        route: Route,
        output: &mut Output,
        most: usize,
    ) -> bool {
        windows.remote_left = windows.remote_left.saturating_sub(1);
        windows.next_outgoing_id = windows.next_outgoing_id.wrapping_add(1);
        let total = self.len();
        let len = total.min(route.room()).min(most);
        let more = total > len;
        let head = TransferHead {
            handle: route.handle,
            delivery_id: self.id,
            settled: route.settled,
            more,
            aborted: false,
        };
        output.write(|buf| outgoing::transfer(buf, route.channel, head, len));
        self.push_payload(len, output);
        more
    }

    /// Takes back what was sent of it so far.
    pub(crate) fn abort(self, windows: &mut Windows, route: Route, output: &mut Output) {
        windows.remote_left = windows.remote_left.saturating_sub(1);
        windows.next_outgoing_id = windows.next_outgoing_id.wrapping_add(1);
        let head = TransferHead {
            handle: route.handle,
            delivery_id: self.id,
            settled: route.settled,
            more: false,
            aborted: true,
        };
        output.write(|buf| outgoing::transfer(buf, route.channel, head, 0));
    }

    /// Bytes still to be sent.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn push_payload(&mut self, mut len: usize, output: &mut Output) {
        for part in &mut self.parts {
            let take = len.min(part.len());
            if take == part.len() {
                output.push(std::mem::take(part));
            } else {
                output.push(part.slice(..take));
                part.advance(take);
            }
            len -= take;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_counts_from_what_the_peer_has_seen() {
        let mut credit = Credit::default();
        credit.update(None, 3, false);
        assert_eq!(credit.left, 3);
        credit.use_one();
        credit.use_one();
        credit.update(Some(1), 3, false);
        assert_eq!(credit.left, 2);
        credit.update(Some(0), 1, false);
        assert_eq!(credit.left, 0, "reduced below what is on its way");
        credit.update(Some(2), u32::MAX, false);
        assert_eq!(credit.left, u32::MAX);
    }

    #[test]
    fn credit_survives_the_wrap_of_its_counter() {
        let mut credit = Credit {
            delivery_count: u32::MAX,
            left: 0,
            drain: false,
        };
        credit.update(Some(u32::MAX), 2, true);
        credit.use_one();
        assert_eq!((credit.delivery_count, credit.left), (0, 1));
        credit.drain_rest();
        assert_eq!(
            (credit.delivery_count, credit.left, credit.drain),
            (1, 0, false)
        );
    }

    fn windows(remote_left: u32) -> Windows {
        Windows {
            next_incoming_id: 0,
            incoming_left: 0,
            next_outgoing_id: 1,
            remote_left,
            next_delivery_id: 0,
        }
    }

    #[test]
    fn the_remote_window_counts_from_what_the_peer_has_seen() {
        let mut windows = windows(0);
        windows.next_outgoing_id = 11;
        windows.update_remote(Some(6), 10);
        assert_eq!(windows.remote_left, 5);
        windows.update_remote(Some(1), 10);
        assert_eq!(windows.remote_left, 0);
        windows.update_remote(Some(11), u32::MAX);
        assert_eq!(windows.remote_left, u32::MAX);
    }

    #[test]
    fn a_delivery_stops_at_the_window_and_goes_on_later() {
        let mut windows = windows(2);
        let mut output = Output::default();
        let route = Route {
            channel: 0,
            handle: 0,
            settled: true,
            max_frame: 512,
        };
        let body = Bytes::from(vec![1; 1200]);
        let mut delivery = Delivery::start(&mut windows, [Bytes::new(), body, Bytes::new()]);
        assert!(!delivery.send(&mut windows, route, &mut output));
        windows.remote_left = 5;
        assert!(delivery.send(&mut windows, route, &mut output));
        assert_eq!(windows.remote_left, 4);
        assert_eq!(windows.next_outgoing_id, 4);
    }
}
