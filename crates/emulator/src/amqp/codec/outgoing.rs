//! Performatives as this server sends them: every field written, trailing nulls included.

use bytes::{BufMut, BytesMut};

use super::Value;
use super::descriptor as code;
use super::encode::{ListWriter, put_binary, put_descriptor, put_text_array, put_uint};
use super::frame::{FrameType, put_frame};
use super::incoming::Attach;
use crate::amqp::errors::AmqpError;
use crate::amqp::limits;

pub(crate) fn open(buf: &mut BytesMut, container_id: &str, hostname: Option<&str>) {
    performative(buf, 0, code::OPEN, |f| {
        f.string(container_id);
        match hostname {
            Some(name) => f.string(name),
            None => f.null(),
        };
        f.uint(limits::MAX_FRAME)
            .ushort(limits::CHANNEL_MAX)
            .uint(limits::IDLE_TIMEOUT_MS);
        // outgoing-locales, incoming-locales, offered-, desired-capabilities, properties
        f.nulls(5);
    });
}

pub(crate) fn begin(buf: &mut BytesMut, channel: u16, next_outgoing_id: u32) {
    performative(buf, channel, code::BEGIN, |f| {
        f.ushort(channel).uint(next_outgoing_id);
        // PROTOCOL: incoming and outgoing windows of the service; it never waits on the outgoing one.
        f.uint(limits::INCOMING_WINDOW)
            .uint(limits::INCOMING_WINDOW);
        f.uint(u32::from(u16::MAX));
        f.nulls(3);
    });
}

/// The parts of an attach answer that are decided here; the rest echoes the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttachAnswer<'a> {
    /// The settle mode of deliveries on this link: what was asked for, or our choice.
    pub(crate) snd_settle_mode: u8,
    pub(crate) max_message_size: u64,
    pub(crate) offered_capabilities: &'a [&'a str],
}

pub(crate) fn attach(buf: &mut BytesMut, channel: u16, request: &Attach, answer: AttachAnswer<'_>) {
    performative(buf, channel, code::ATTACH, |f| {
        f.string(&request.name)
            .uint(request.handle)
            .boolean(!request.is_receiver);
        f.ubyte(answer.snd_settle_mode);
        // INTEROP: go-amqp fails a link whose requested settle mode comes back different.
        f.ubyte(if request.rcv_settle_mode == Some(1) {
            1
        } else {
            0
        });
        f.raw(request.raw_source.as_deref())
            .raw(request.raw_target.as_deref());
        f.nulls(2);
        // INTEROP: .NET and Python need the count, although only a sender has to state it.
        f.uint(if request.is_receiver {
            0
        } else {
            request.initial_delivery_count.unwrap_or(0)
        });
        f.ulong(answer.max_message_size);
        f.field(|buf| put_text_array(buf, true, answer.offered_capabilities));
        f.nulls(2);
    });
}

/// First half of a refusal; the detach with the error follows.
/// INTEROP: Python, Go, Java and .NET know a refusal by the null source and target.
pub(crate) fn refusing_attach(buf: &mut BytesMut, channel: u16, request: &Attach) {
    performative(buf, channel, code::ATTACH, |f| {
        f.string(&request.name)
            .uint(request.handle)
            .boolean(!request.is_receiver);
        f.nulls(6);
        f.uint_or_null(request.is_receiver.then_some(0));
        f.nulls(4);
    });
}

/// Numbers of a flow that belong to the session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionFlow {
    pub(crate) next_incoming_id: u32,
    pub(crate) incoming_window: u32,
    pub(crate) next_outgoing_id: u32,
    pub(crate) outgoing_window: u32,
}

/// Numbers of a flow that belong to a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkFlow {
    pub(crate) handle: u32,
    pub(crate) delivery_count: u32,
    pub(crate) link_credit: u32,
    pub(crate) drain: bool,
}

pub(crate) fn flow(buf: &mut BytesMut, channel: u16, session: SessionFlow, link: Option<LinkFlow>) {
    performative(buf, channel, code::FLOW, |f| {
        f.uint(session.next_incoming_id)
            .uint(session.incoming_window);
        f.uint(session.next_outgoing_id)
            .uint(session.outgoing_window);
        match link {
            Some(link) => {
                f.uint(link.handle)
                    .uint(link.delivery_count)
                    .uint(link.link_credit);
                f.uint(0).boolean(link.drain);
            }
            None => {
                f.nulls(4).boolean(false);
            }
        }
        f.boolean(false).null();
    });
}

/// The fixed part of a transfer frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransferHead {
    pub(crate) handle: u32,
    pub(crate) delivery_id: u32,
    pub(crate) settled: bool,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
}

/// Most a transfer frame needs besides its payload.
pub(crate) const TRANSFER_OVERHEAD: usize = 8 + 3 + 3 + 5 + 5 + 6 + 1 + 1 + 1 + 5;

/// Writes a transfer frame up to its payload, whose length must be known.
pub(crate) fn transfer(buf: &mut BytesMut, channel: u16, head: TransferHead, payload_len: usize) {
    let start = buf.len();
    buf.put_u32(0);
    buf.put_slice(&[2, 0]);
    buf.put_u16(channel);
    put_descriptor(buf, code::TRANSFER);
    // A `list8`: the eleven fields never take more than 30 bytes.
    buf.put_slice(&[0xc0, 0, 11]);
    let fields = buf.len();
    put_uint(buf, head.handle);
    put_uint(buf, head.delivery_id);
    put_binary(buf, &head.delivery_id.to_be_bytes());
    // INTEROP: JS drops messages silently whose format is null, go-amqp detaches.
    put_uint(buf, 0);
    buf.put_slice(&[bool_code(head.settled), bool_code(head.more)]);
    // rcv-settle-mode, state, resume, aborted, batchable
    buf.put_slice(&[0x40, 0x40, 0x42, bool_code(head.aborted), 0x42]);
    let list_size = (buf.len() - fields + 1) as u8;
    let size = super::encode::len_u32(buf.len() - start + payload_len);
    if let Some(room) = buf.get_mut(fields - 2) {
        *room = list_size;
    }
    if let Some(room) = buf.get_mut(start..start + 4) {
        room.copy_from_slice(&size.to_be_bytes());
    }
}

fn bool_code(flag: bool) -> u8 {
    if flag { 0x41 } else { 0x42 }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    Rejected(AmqpError),
}

pub(crate) fn disposition(
    buf: &mut BytesMut,
    channel: u16,
    first: u32,
    last: u32,
    outcome: &Outcome,
) {
    performative(buf, channel, code::DISPOSITION, |f| {
        f.boolean(true).uint(first).uint(last).boolean(true);
        f.field(|buf| match outcome {
            Outcome::Accepted => ListWriter::described(buf, code::ACCEPTED).finish(),
            Outcome::Rejected(error) => {
                let mut state = ListWriter::described(buf, code::REJECTED);
                state.field(|buf| put_error(buf, error));
                state.finish();
            }
        });
        f.boolean(false);
    });
}

/// Settles deliveries of ours that the peer has given a state for.
pub(crate) fn settle_back(
    buf: &mut BytesMut,
    channel: u16,
    first: u32,
    last: Option<u32>,
    raw_state: Option<&[u8]>,
) {
    performative(buf, channel, code::DISPOSITION, |f| {
        f.boolean(false)
            .uint(first)
            .uint_or_null(last)
            .boolean(true)
            .raw(raw_state)
            .boolean(false);
    });
}

pub(crate) fn detach(
    buf: &mut BytesMut,
    channel: u16,
    handle: u32,
    closed: bool,
    error: Option<&AmqpError>,
) {
    performative(buf, channel, code::DETACH, |f| {
        f.uint(handle).boolean(closed);
        error_field(f, error);
    });
}

pub(crate) fn end(buf: &mut BytesMut, channel: u16, error: Option<&AmqpError>) {
    performative(buf, channel, code::END, |f| error_field(f, error));
}

pub(crate) fn close(buf: &mut BytesMut, error: Option<&AmqpError>) {
    performative(buf, 0, code::CLOSE, |f| error_field(f, error));
}

pub(crate) fn sasl_mechanisms(buf: &mut BytesMut, mechanisms: &[&str]) {
    put_frame(buf, FrameType::Sasl, 0, |buf| {
        let mut f = ListWriter::described(buf, code::SASL_MECHANISMS);
        f.field(|buf| put_text_array(buf, true, mechanisms));
        f.finish();
    });
}

pub(crate) fn sasl_outcome(buf: &mut BytesMut, outcome: u8) {
    put_frame(buf, FrameType::Sasl, 0, |buf| {
        let mut f = ListWriter::described(buf, code::SASL_OUTCOME);
        f.ubyte(outcome).null();
        f.finish();
    });
}

fn error_field(f: &mut ListWriter<'_>, error: Option<&AmqpError>) {
    match error {
        Some(error) => f.field(|buf| put_error(buf, error)),
        None => f.null(),
    };
}

fn put_error(buf: &mut BytesMut, error: &AmqpError) {
    let mut f = ListWriter::described(buf, code::ERROR);
    f.symbol(&error.condition).string(&error.description);
    match &error.redirect {
        // PROTOCOL: AMQP 2.8.16 and 3.5.10; the address of a link stays as it is.
        Some((host, port)) => {
            let symbol = |name: &str| Value::Symbol(name.to_owned());
            let info = vec![
                (symbol("hostname"), Value::from(&**host)),
                (symbol("network-host"), Value::from(&**host)),
                (symbol("port"), Value::Ushort(*port)),
            ];
            f.value(&Value::Map(info));
        }
        None => {
            f.null();
        }
    }
    f.finish();
}

fn performative(
    buf: &mut BytesMut,
    channel: u16,
    code: u64,
    write: impl FnOnce(&mut ListWriter<'_>),
) {
    put_frame(buf, FrameType::Amqp, channel, |buf| {
        let mut f = ListWriter::described(buf, code);
        write(&mut f);
        f.finish();
    });
}
