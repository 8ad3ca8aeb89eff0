//! The fuzz targets of the Event Hubs side.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;

use super::codec::encode::{ListWriter, put_value};
use super::codec::frame::{FrameType, next_frame, put_frame};
use super::codec::incoming::{self, Performative};
use super::codec::outgoing::{self, AttachAnswer};
use super::codec::{DecodeError, Decoder, Value, descriptor};
use super::connection::Connection;
use super::limits::{MAX_FILTER, MAX_FRAME};
use super::request::{Reply, Request};
use super::sas::{Grants, Keys};
use super::service::Service;
use super::{cbs as cbs_node, management as management_node, selector, websocket};
use crate::broker::{Broker, Clock, Message, Position, Retention, Settings, Stamp};

/// A key that the seeds of the corpus are signed with.
const KEY: (&str, &str) = ("root", "c2VjcmV0");

/// Frames, the performatives in them, and values.
pub(crate) fn frame(data: &[u8]) {
    let mut buf = BytesMut::from(data);
    while let Ok(Some(frame)) = next_frame(&mut buf, MAX_FRAME) {
        let _ = incoming::sasl_init(&frame.body);
        if let Ok(Performative::Attach(attach)) = incoming::performative(&frame.body) {
            echo(&attach);
        }
        value(&frame.body);
    }
    value(data);
}

/// The answer to an attach carries what the peer has sent, and has to be readable whatever that was.
fn echo(attach: &incoming::Attach) {
    let mut buf = BytesMut::new();
    let answer = AttachAnswer {
        snd_settle_mode: 0,
        max_message_size: 1,
        offered_capabilities: &[],
    };
    outgoing::attach(&mut buf, 0, attach, answer);
    outgoing::refusing_attach(&mut buf, 0, attach);
    while let Ok(Some(frame)) = next_frame(&mut buf, u32::MAX) {
        match incoming::performative(&frame.body) {
            Ok(Performative::Attach(echo)) => {
                assert_eq!((&echo.name, echo.handle), (&attach.name, attach.handle));
                assert_ne!(echo.is_receiver, attach.is_receiver);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What is decoded can be encoded, and then means the same; stepping over it goes as far.
fn value(data: &[u8]) {
    let mut decoder = Decoder::new(data);
    let Ok(value) = decoder.value() else { return };
    let mut skipping = Decoder::new(data);
    assert!(skipping.skip().is_ok());
    assert_eq!(skipping.remaining(), decoder.remaining());
    let once = encoded(&value);
    match Decoder::new(&once).value() {
        Ok(again) => assert_eq!(encoded(&again), once),
        // Arrays become lists, whose items count for more.
        Err(DecodeError::Depth | DecodeError::Elements) => {}
        Err(error) => panic!("{error}: {value:?}"),
    }
}

fn encoded(value: &Value) -> Bytes {
    let mut buf = BytesMut::new();
    put_value(&mut buf, value);
    buf.freeze()
}

/// Messages and batches: what is stored can be read again, and is stamped by us alone.
pub(crate) fn message(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let one = Message::parse(&bytes).into_iter();
    let batch = Message::parse_batch(&bytes).into_iter().flatten();
    for message in one.chain(batch) {
        let stored = stored(&message);
        assert!(stored.len() <= message.stored_len());
        match Message::parse(&stored) {
            Ok(again) => assert_eq!(self::stored(&again), stored),
            Err(error) => panic!("{error}: {stored:02x?}"),
        }
    }
}

fn stored(message: &Message) -> Bytes {
    let stamp = Stamp {
        sequence_number: 7,
        offset: "700",
        enqueued_ms: 1,
    };
    let mut buf = BytesMut::new();
    let header_len = message.encode(stamp, &mut buf);
    assert!(header_len <= buf.len());
    buf.freeze()
}

/// A source filter is a position if it is written as one, and as nothing else.
pub(crate) fn selector(data: &[u8]) {
    if let Ok(filter) = Decoder::new(data).value() {
        let _ = selector::position(&filter);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let name = Value::Symbol("apache.org:selector-filter:string".to_owned());
    let filter = |text: &str| Value::Map(vec![(name.clone(), Value::from(text))]);
    let Ok(position) = selector::position(&filter(text)) else {
        return;
    };
    assert!(text.len() <= MAX_FILTER);
    let (field, inclusive, value) = match &position {
        Position::Start | Position::End => {
            assert!(text.contains('>'), "{text}");
            return;
        }
        Position::Offset { text, inclusive } => ("x-opt-offset", inclusive, text.clone()),
        Position::SequenceNumber { number, inclusive } => {
            ("x-opt-sequence-number", inclusive, number.to_string())
        }
        Position::EnqueuedTime { millis, inclusive } => {
            ("x-opt-enqueued-time", inclusive, millis.to_string())
        }
    };
    let operator = if *inclusive { ">=" } else { ">" };
    let canonical = format!("amqp.annotation.{field} {operator} '{value}'");
    assert_eq!(
        selector::position(&filter(&canonical)),
        Ok(position),
        "{text}"
    );
    // The same words and nothing between them but spaces and quotes.
    let words = |text: &str| text.replace(|c: char| c.is_whitespace() || c == '\'', "");
    if field == "x-opt-offset" {
        assert_eq!(words(&canonical), words(text));
    }
}

/// Put-token: nobody gets in without a signature, and every request has its answer.
pub(crate) fn cbs(data: &[u8]) {
    let service = service();
    let mut grants = Grants::default();
    request(data, |request| {
        cbs_node::answer(request, &service, &mut grants)
    });
}

/// `READ`: as [`cbs`].
pub(crate) fn management(data: &[u8]) {
    let service = service();
    let mut grants = Grants::default();
    grants.add("hub", i64::MAX, 0);
    request(data, |request| {
        management_node::answer(request, &service, &grants)
    });
}

fn request(data: &[u8], mut answer: impl FnMut(&Request) -> Reply) {
    let Ok(request) = Request::parse(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let reply = answer(&request);
    let encoded = request.reply(&reply);
    let mut decoder = Decoder::new(&encoded);
    assert_eq!(decoder.descriptor(), Ok(descriptor::PROPERTIES));
    assert!(decoder.list().is_ok());
    assert_eq!(decoder.descriptor(), Ok(descriptor::APPLICATION_PROPERTIES));
    let status = decoder.value().map(|map| map.entry("status-code").cloned());
    assert_eq!(status, Ok(Some(Value::Int(reply.status))));
    assert_eq!(decoder.descriptor(), Ok(descriptor::AMQP_VALUE));
    assert_eq!(decoder.value(), Ok(reply.body));
    assert!(decoder.is_empty());
    // Faults ask for a reply to somebody else.
    let _ = request
        .astray()
        .reply(&Reply::success(200, "", Value::Null));
}

/// A token, and the audience it is for on the next line.
pub(crate) fn sas(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (token, audience) = text.split_once('\n').unwrap_or((&text, "hub"));
    let keys = keys();
    if let Ok(expiry) = keys.check(token, audience, 0) {
        assert!(expiry > 0);
        assert!(keys.check(token, audience, expiry).is_err());
        let forged = token.replace(KEY.0, "other");
        assert!(keys.check(&forged, audience, 0).is_err() || forged == token);
    }
}

fn keys() -> Keys {
    Keys::new(HashMap::from([(KEY.0.to_owned(), KEY.1.to_owned())]))
}

/// The upgrade to a WebSocket and its messages, as far as they come.
pub(crate) fn websocket(data: &[u8]) {
    let stream = tokio::io::join(Cursor::new(data.to_vec()), Vec::new());
    let service = plain_service();
    // Nothing here ever waits, so an answer that does not come at once never would.
    let Some(Ok(mut stream)) = websocket::accept(stream, &service).now_or_never() else {
        return;
    };
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got).now_or_never();
    assert!(read.is_some());
    assert!(got.len() <= data.len());
}

/// What a peer sends: on a new connection if the first byte is even, else behind an open and some links. The
/// rest of that byte says how the stream is cut.
pub(crate) fn connection(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let service = plain_service();
    if let Some(partition) = service.broker.hub("hub").and_then(|hub| hub.partition("0")) {
        let event = Bytes::from_static(b"\x00\x53\x75\xa0\x05event");
        if let Ok(message) = Message::parse(&event) {
            assert!(partition.append(&[message]).is_ok());
        }
    }
    let (sender, mut signals) = unbounded_channel();
    let mut now = Instant::now();
    let mut connection = Connection::new(1, service, sender, now);
    let mut input = BytesMut::new();
    if mode & 1 == 1 {
        input.extend_from_slice(preamble());
        connection.on_bytes(&mut input, now);
        assert!(input.is_empty());
    }
    let mut output = BytesMut::new();
    for chunk in data.chunks(1 << (mode >> 4)) {
        input.extend_from_slice(chunk);
        connection.on_bytes(&mut input, now);
        assert!(
            input.len() <= MAX_FRAME as usize,
            "an unread frame is at most a frame"
        );
        while let Ok(signal) = signals.try_recv() {
            connection.on_signal(signal, now);
        }
        connection.pump();
        now += Duration::from_millis(1);
        connection.on_timer(now);
        let out = connection.output();
        output.put(out.take(out.remaining()));
        check_output(&mut output);
        if connection.is_finished() {
            break;
        }
    }
    connection.on_timer(now + Duration::from_secs(3600));
}

/// What we say is whole, and in our own protocol.
fn check_output(output: &mut BytesMut) {
    while output.starts_with(b"AMQP") {
        output.advance(8);
    }
    loop {
        match next_frame(output, MAX_FRAME) {
            Ok(Some(frame)) if frame.body.is_empty() || frame.frame_type == FrameType::Sasl => {}
            Ok(Some(frame)) => {
                let performative = incoming::performative(&frame.body);
                assert!(performative.is_ok(), "{performative:?}");
            }
            Ok(None) => break,
            Err(error) => panic!("{error}"),
        }
        while output.starts_with(b"AMQP") {
            output.advance(8);
        }
    }
    assert!(output.is_empty(), "half a frame");
}

/// In memory, with an event hub of two partitions.
#[allow(
    clippy::expect_used,
    reason = "without a broker there is nothing to try"
)]
pub(crate) fn broker() -> Broker {
    let retention = Retention {
        events: 100,
        bytes: 1 << 20,
    };
    let settings = Settings::new(retention, Clock::Wall);
    let broker = Broker::open(settings, None).expect("a broker in memory");
    broker.add_hub("hub", 2).expect("an event hub");
    broker
}

fn plain_service() -> Arc<Service> {
    Arc::new(Service::new(broker(), Keys::default()))
}

fn service() -> Service {
    Service::new(broker(), keys())
}

/// An open connection with a session, a sender, a receiver with credit, and the pair of `$cbs`.
fn preamble() -> &'static [u8] {
    static PREAMBLE: OnceLock<Vec<u8>> = OnceLock::new();
    PREAMBLE.get_or_init(|| {
        let mut buf = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
        put(&mut buf, descriptor::OPEN, |f| {
            f.string("peer").null().uint(4096);
        });
        put(&mut buf, descriptor::BEGIN, |f| {
            f.null().uint(0).uint(1000).uint(1000);
        });
        attach(&mut buf, 0, false, "hub");
        attach(
            &mut buf,
            1,
            true,
            "hub/ConsumerGroups/$Default/Partitions/0",
        );
        attach(&mut buf, 2, false, "$cbs");
        attach(&mut buf, 3, true, "$cbs");
        for handle in [1, 3] {
            put(&mut buf, descriptor::FLOW, |f| {
                f.uint(1).uint(1000).uint(0).uint(1000);
                f.uint(handle).uint(0).uint(100);
            });
        }
        buf.to_vec()
    })
}

fn put(buf: &mut BytesMut, code: u64, write: impl FnOnce(&mut ListWriter<'_>)) {
    put_frame(buf, FrameType::Amqp, 0, |buf| {
        let mut fields = ListWriter::described(buf, code);
        write(&mut fields);
        fields.finish();
    });
}

fn attach(buf: &mut BytesMut, handle: u32, is_receiver: bool, address: &str) {
    let terminus = |f: &mut ListWriter<'_>, code| {
        f.field(|buf| {
            let mut terminus = ListWriter::described(buf, code);
            terminus.string(address);
            terminus.finish();
        });
    };
    put(buf, descriptor::ATTACH, |f| {
        f.string(&format!("link-{handle}"))
            .uint(handle)
            .boolean(is_receiver)
            .nulls(2);
        terminus(f, descriptor::SOURCE);
        terminus(f, descriptor::TARGET);
    });
}
