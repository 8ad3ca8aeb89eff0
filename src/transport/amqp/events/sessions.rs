//! Which frames belong to event links, in both directions of a connection.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::wire::Malformed;
use super::super::wire::performative::{
    ATTACH, Attach, BEGIN, Begin, DETACH, END, FLOW, Performative, Transfer, with_uints,
};
use super::credit::remaining;
use super::queue::{End, EventQueue, Links, Payload};

/// Longest beginning that is kept of a message that is too large: its annotations come first.
const KEPT_START: usize = 64 * 1024;

/// Condition with which the service ends a link that another receiver took over.
const STOLEN: &str = "amqp:link:stolen";

/// A message of which not all frames have come.
#[derive(Debug, Default)]
struct Partial {
    bytes: BytesMut,
    len: u64,
}

/// An event link, from the attach that we sent until the peer's detach.
#[derive(Debug)]
struct Link {
    name: String,
    queue: Arc<EventQueue>,
    local_handle: u32,
    /// Known once the peer has attached.
    remote_handle: Option<u32>,
    initial_delivery_count: u32,
    /// Deliveries since the attach, modulo 2^32 as everything that counts here.
    arrived: u32,
    /// The furthest limit that has been told to the peer.
    told: u32,
    partial: Option<Partial>,
    /// Whether what comes is thrown away.
    is_over: bool,
    /// Deliveries that the peer has not settled and we have not either: the first and the last.
    unsettled: Option<(u32, u32)>,
    /// Messages since the last time that the receiver was told.
    messages: Vec<Payload>,
}

/// A session, from the begin that we sent until the peer's end.
#[derive(Debug, Default)]
struct Session {
    /// The peer's number for it, once it has answered.
    remote_channel: Option<u16>,
    next_incoming_id: u32,
    links: Vec<Link>,
}

/// What became of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport::amqp) enum Diverted {
    /// It is none of an event link.
    No,
    Yes,
    /// The peer broke the rules.
    Violation(&'static str),
}

/// The sessions of a connection and their event links.
#[derive(Debug)]
pub(in crate::transport::amqp) struct Sessions {
    links: Links,
    max_message_size: u64,
    /// By our channel.
    sessions: Vec<Session>,
    /// Our channel by the peer's.
    channels: HashMap<u16, u16>,
    /// The peer's channel of the last transfer and ours, for they come in runs.
    last: Option<(u16, u16)>,
    /// Our channels with messages that the receivers have not been told of.
    touched: Vec<u16>,
    /// Number of the read buffer that transfers come from.
    buffer: u64,
}

impl Sessions {
    pub(in crate::transport::amqp) fn new(links: Links, max_message_size: u64) -> Self {
        Self {
            links,
            max_message_size,
            sessions: Vec::new(),
            channels: HashMap::new(),
            last: None,
            touched: Vec::new(),
            buffer: 0,
        }
    }

    /// What comes from now on comes from the read buffer of this number.
    pub(in crate::transport::amqp) fn note_buffer(&mut self, buffer: u64) {
        if buffer != self.buffer {
            self.flush();
            self.buffer = buffer;
        }
    }

    /// Looks at a frame of ours on its way out: `header` and what follows it. `Some`: what goes out in its place.
    pub(in crate::transport::amqp) fn sent(
        &mut self,
        channel: u16,
        header: &[u8],
        performative: &Performative<'_>,
    ) -> Result<Option<Vec<u8>>, Malformed> {
        match performative.code {
            BEGIN => {
                let at = usize::from(channel);
                if self.sessions.len() <= at {
                    self.sessions.resize_with(at + 1, Session::default);
                }
                self.sessions[at] = Session::default();
            }
            ATTACH => {
                let attach = Attach::read(performative)?;
                if attach.is_receiver
                    && let Some(queue) = self.links.find(attach.name)
                    && let Some(session) = self.ours(channel)
                {
                    session.links.push(Link::new(&attach, queue));
                }
            }
            FLOW => {
                if let Some(session) = self.ours(channel) {
                    return session.sent_flow(header, performative);
                }
            }
            DETACH => {
                let handle = performative.uint(0)?;
                if let Some(session) = self.ours(channel)
                    && let Some(link) = session
                        .links
                        .iter_mut()
                        .find(|link| Some(link.local_handle) == handle)
                {
                    link.is_over = true;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Looks at a frame of the peer, other than a transfer.
    pub(in crate::transport::amqp) fn received(
        &mut self,
        channel: u16,
        performative: &Performative<'_>,
    ) -> Result<(), Malformed> {
        match performative.code {
            BEGIN => {
                let begin = Begin::read(performative)?;
                if let Some(ours) = begin.remote_channel
                    && let Some(session) = self.ours(ours)
                    && session.remote_channel.is_none()
                {
                    session.remote_channel = Some(channel);
                    session.next_incoming_id = begin.next_outgoing_id;
                    self.channels.insert(channel, ours);
                    self.last = None;
                }
            }
            ATTACH => {
                let attach = Attach::read(performative)?;
                let session = self.session(channel);
                let link = session.and_then(|session| {
                    let mut links = session.links.iter_mut();
                    links.find(|link| link.remote_handle.is_none() && link.name == attach.name)
                });
                if let Some(link) = link
                    && !attach.is_receiver
                {
                    link.remote_handle = Some(attach.handle);
                    link.initial_delivery_count = attach.initial_delivery_count;
                }
            }
            FLOW => {
                let (handle, count) = (performative.uint(4)?, performative.uint(5)?);
                if let (Some(handle), Some(count)) = (handle, count)
                    && let Some(link) = self.link(channel, handle)
                {
                    link.skip_to(count);
                }
            }
            DETACH => {
                let Some(handle) = performative.uint(0)? else {
                    return Ok(());
                };
                let is_stolen = performative.condition(2)? == Some(STOLEN);
                self.flush();
                let Some(session) = self.session(channel) else {
                    return Ok(());
                };
                let mut links = session.links.iter();
                let at = links.position(|link| link.remote_handle == Some(handle));
                if let Some(at) = at {
                    let link = session.links.swap_remove(at);
                    if is_stolen {
                        link.queue.end(End::Stolen);
                    }
                }
            }
            END => {
                let is_stolen = performative.condition(0)? == Some(STOLEN);
                self.flush();
                self.last = None;
                let ours = self.channels.remove(&channel);
                if let Some(session) = ours.and_then(|ours| self.ours(ours)) {
                    for link in std::mem::take(session).links {
                        if is_stolen {
                            link.queue.end(End::Stolen);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a transfer, if it is one of an event link.
    pub(in crate::transport::amqp) fn divert(
        &mut self,
        channel: u16,
        transfer: &Transfer,
        payload: impl FnOnce() -> Bytes,
    ) -> Diverted {
        let ours = match self.last {
            Some((theirs, ours)) if theirs == channel => ours,
            _ => match self.channels.get(&channel) {
                Some(&ours) => ours,
                None => return Diverted::No,
            },
        };
        self.last = Some((channel, ours));
        let Some(session) = self.sessions.get_mut(usize::from(ours)) else {
            return Diverted::No;
        };
        session.next_incoming_id = session.next_incoming_id.wrapping_add(1);
        let link = session
            .links
            .iter_mut()
            .find(|link| link.remote_handle == Some(transfer.handle));
        let Some(link) = link else {
            return Diverted::No;
        };
        if self.touched.last() != Some(&ours) {
            self.touched.push(ours);
        }
        match link.take(transfer, payload(), self.max_message_size, self.buffer) {
            Ok(()) => Diverted::Yes,
            Err(why) => {
                link.flush(self.buffer);
                link.is_over = true;
                link.queue.end(End::Violation(why));
                Diverted::Violation(why)
            }
        }
    }

    /// Tells the receivers of what has come since the last time.
    pub(in crate::transport::amqp) fn flush(&mut self) {
        for channel in self.touched.drain(..) {
            let Some(session) = self.sessions.get_mut(usize::from(channel)) else {
                continue;
            };
            for link in &mut session.links {
                link.flush(self.buffer);
            }
        }
    }

    /// The session that we began on this channel.
    fn ours(&mut self, channel: u16) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(channel))
    }

    /// The session that the peer calls so.
    fn session(&mut self, channel: u16) -> Option<&mut Session> {
        let ours = *self.channels.get(&channel)?;
        self.ours(ours)
    }

    fn link(&mut self, channel: u16, handle: u32) -> Option<&mut Link> {
        let session = self.session(channel)?;
        let mut links = session.links.iter_mut();
        links.find(|link| link.remote_handle == Some(handle))
    }
}

impl Session {
    /// PROTOCOL: a flow tells how far the sender of it has come, absolutely. The library has not seen the transfers
    /// that were diverted, and its answer to an echo would grant their credit a second time.
    fn sent_flow(
        &mut self,
        header: &[u8],
        flow: &Performative<'_>,
    ) -> Result<Option<Vec<u8>>, Malformed> {
        if self.remote_channel.is_none() || self.links.is_empty() {
            return Ok(None);
        }
        let mut edits = vec![(0, self.next_incoming_id)];
        let handle = flow.uint(4)?;
        let mut links = self.links.iter_mut();
        let link = links.find(|link| handle.is_some() && Some(link.local_handle) == handle);
        let mut settled = None;
        if let Some(link) = link {
            let limit = link.queue.limit();
            if remaining(limit, link.told) > 0 {
                link.told = limit;
            }
            let count = link.initial_delivery_count.wrapping_add(link.arrived);
            edits.push((5, count));
            edits.push((6, remaining(limit, link.arrived)));
            settled = link.unsettled.take();
        }
        let mut frame = with_uints(header, flow, &edits)?;
        if let Some((first, last)) = settled {
            let channel = header.get(6..8).ok_or(Malformed)?;
            frame.extend_from_slice(&accepted(channel, first, last));
        }
        Ok(Some(frame))
    }
}

/// A disposition that settles deliveries.
fn accepted(channel: &[u8], first: u32, last: u32) -> Vec<u8> {
    let fields = [
        &[0x41, 0x70][..],
        &first.to_be_bytes(),
        &[0x70],
        &last.to_be_bytes(),
        &[0x41],
        &[0x00, 0x53, 0x24, 0x45],
    ]
    .concat();
    let list = [&[0x00, 0x53, 0x15, 0xc0, 17, 5][..], &fields].concat();
    let size = [0, 0, 0, 30];
    [&size[..], &[2, 0], channel, &list].concat()
}

impl Link {
    fn new(attach: &Attach<'_>, queue: Arc<EventQueue>) -> Self {
        Self {
            name: attach.name.to_owned(),
            queue,
            local_handle: attach.handle,
            remote_handle: None,
            initial_delivery_count: 0,
            arrived: 0,
            told: 0,
            partial: None,
            is_over: false,
            unsettled: None,
            messages: Vec::new(),
        }
    }

    /// Takes a frame of a message.
    ///
    /// # Errors
    ///
    /// What the peer did that it must not.
    fn take(
        &mut self,
        transfer: &Transfer,
        payload: Bytes,
        max_message_size: u64,
        buffer: u64,
    ) -> Result<(), &'static str> {
        if let (Some(id), false) = (transfer.delivery_id, transfer.is_settled) {
            // PROTOCOL: we ask for settled events. A peer that does not settle them waits for us to do so, and
            // keeps each until then.
            let (first, _) = self.unsettled.unwrap_or((id, id));
            self.unsettled = Some((first, id));
        }
        if transfer.is_aborted {
            self.partial = None;
            return Ok(());
        }
        let limit = usize::try_from(max_message_size).unwrap_or(usize::MAX);
        let message = match self.partial.take() {
            None if !transfer.more && payload.len() <= limit => Payload::Whole(payload),
            partial => {
                let mut partial = match partial {
                    Some(partial) => partial,
                    None => {
                        self.flush(buffer);
                        self.is_over |= !self.queue.has_room();
                        Partial::default()
                    }
                };
                partial.len += payload.len() as u64;
                if self.is_over {
                    // Counted and forgotten.
                } else if partial.len <= max_message_size {
                    partial.bytes.extend_from_slice(&payload);
                } else if partial.bytes.len() < KEPT_START {
                    let room = KEPT_START - partial.bytes.len();
                    partial
                        .bytes
                        .extend_from_slice(&payload[..payload.len().min(room)]);
                } else {
                    partial.bytes.truncate(KEPT_START);
                }
                if transfer.more {
                    self.partial = Some(partial);
                    return Ok(());
                }
                let bytes = partial.bytes.freeze();
                if partial.len <= max_message_size {
                    Payload::Whole(bytes)
                } else {
                    Payload::TooLarge {
                        start: Bytes::copy_from_slice(&bytes[..bytes.len().min(KEPT_START)]),
                        len: partial.len,
                    }
                }
            }
        };
        self.arrived = self.arrived.wrapping_add(1);
        if remaining(self.told, self.arrived.wrapping_sub(1)) == 0 {
            return Err("the peer sent more events than it had credit for");
        }
        if self.is_over {
            return Ok(());
        }
        self.messages.push(message);
        Ok(())
    }

    fn flush(&mut self, buffer: u64) {
        if !self.messages.is_empty() {
            self.queue.push(&mut self.messages, self.arrived, buffer);
        }
    }

    /// The peer says that it has come so far.
    fn skip_to(&mut self, delivery_count: u32) {
        let count = delivery_count.wrapping_sub(self.initial_delivery_count);
        // Only forward, and not beyond what it may use: it takes credit from itself, not more from us.
        let ahead = remaining(count, self.arrived);
        if ahead > 0 && ahead <= remaining(self.told, self.arrived) {
            self.arrived = count;
        }
    }
}
