//! A connection fed with bytes, at times of our choosing.

mod hostile;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::Connection;
use crate::amqp::Signal;
use crate::amqp::codec::encode::ListWriter;
use crate::amqp::codec::frame::{FrameType, next_frame, put_frame};
use crate::amqp::codec::{Decoder, Value, descriptor};
use crate::amqp::fault_rules::Scope;
use crate::amqp::sas::Keys;
use crate::amqp::service::Service;
use crate::broker::{Broker, Retention};

struct Peer {
    connection: Connection,
    signals: UnboundedReceiver<Signal>,
    service: Arc<Service>,
    now: Instant,
}

/// Channel, descriptor and fields of a frame; heartbeats have descriptor 0.
type Got = (u16, u64, Vec<Value>);

impl Peer {
    fn new() -> Self {
        Self::with_keys(Keys::default())
    }

    fn with_keys(keys: Keys) -> Self {
        Self::with(keys, |_| {})
    }

    fn with(keys: Keys, adjust: impl FnOnce(&mut Service)) -> Self {
        let broker = Broker::new(
            Retention {
                events: 1000,
                bytes: 1 << 20,
            },
            crate::broker::Clock::Wall,
        );
        broker.create_hub("hub", 2);
        let mut service = Service::new(broker, keys);
        adjust(&mut service);
        let service = Arc::new(service);
        let (sender, signals) = unbounded_channel();
        let now = Instant::now();
        let connection = Connection::new(1, Arc::clone(&service), sender, now);
        Self {
            connection,
            signals,
            service,
            now,
        }
    }

    /// Past header and open, with a session on channel 0.
    fn opened() -> Self {
        Self::new().open()
    }

    fn open(mut self) -> Self {
        let peer = &mut self;
        peer.bytes(b"AMQP\x00\x01\x00\x00");
        peer.frame(0, descriptor::OPEN, |f| {
            f.string("peer").null().uint(512).nulls(1).uint(4000);
        });
        peer.begin(0);
        let got = peer.output_after_headers(1);
        assert_eq!(codes(&got), [descriptor::OPEN, descriptor::BEGIN]);
        self
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        self.connection.on_bytes(&mut input, self.now);
    }

    fn frame(&mut self, channel: u16, code: u64, write: impl FnOnce(&mut ListWriter<'_>)) {
        self.transfer_frame(channel, code, write, b"");
    }

    fn transfer_frame(
        &mut self,
        channel: u16,
        code: u64,
        write: impl FnOnce(&mut ListWriter<'_>),
        payload: &[u8],
    ) {
        let mut buf = BytesMut::new();
        put_frame(&mut buf, FrameType::Amqp, channel, |buf| {
            let mut fields = ListWriter::described(buf, code);
            write(&mut fields);
            fields.finish();
            buf.put_slice(payload);
        });
        self.bytes(&buf);
    }

    fn begin(&mut self, channel: u16) {
        self.frame(channel, descriptor::BEGIN, |f| {
            f.null().uint(0).uint(100).uint(100);
        });
    }

    fn attach(&mut self, handle: u32, is_receiver: bool, address: &str) {
        let terminus = |f: &mut ListWriter<'_>, code, address: &str| {
            f.field(|buf| {
                let mut terminus = ListWriter::described(buf, code);
                terminus.string(address);
                terminus.finish();
            });
        };
        self.frame(0, descriptor::ATTACH, |f| {
            f.string(&format!("link-{handle}"))
                .uint(handle)
                .boolean(is_receiver)
                .nulls(2);
            terminus(f, descriptor::SOURCE, address);
            terminus(f, descriptor::TARGET, address);
        });
    }

    fn credit(&mut self, handle: u32, credit: u32, drain: bool) {
        self.frame(0, descriptor::FLOW, |f| {
            f.uint(1).uint(100).uint(0).uint(100);
            f.uint(handle).uint(0).uint(credit).null().boolean(drain);
        });
        self.connection.pump();
    }

    fn send(&mut self, handle: u32, delivery_id: u32, more: bool, payload: &[u8]) {
        let write = |f: &mut ListWriter<'_>| {
            f.uint(handle)
                .uint(delivery_id)
                .null()
                .uint(0)
                .boolean(false)
                .boolean(more);
        };
        self.transfer_frame(0, descriptor::TRANSFER, write, payload);
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        self.connection.on_timer(self.now);
    }

    fn signals(&mut self) {
        while let Ok(signal) = self.signals.try_recv() {
            self.connection.on_signal(signal, self.now);
        }
        self.connection.pump();
    }

    fn output(&mut self) -> Vec<Got> {
        self.output_after_headers(0)
    }

    fn output_after_headers(&mut self, headers: usize) -> Vec<Got> {
        let output = self.connection.output();
        let mut bytes = BytesMut::new();
        while output.has_remaining() {
            bytes.put_slice(output.chunk());
            let taken = output.chunk().len();
            output.advance(taken);
        }
        bytes.advance(headers * 8);
        let mut got = Vec::new();
        while let Some(frame) = next_frame(&mut bytes, u32::MAX).unwrap() {
            got.push(read(frame.channel, &frame.body));
        }
        assert!(bytes.is_empty());
        got
    }
}

fn read(channel: u16, body: &Bytes) -> Got {
    if body.is_empty() {
        return (channel, 0, Vec::new());
    }
    let Ok(Value::Described(pair)) = Decoder::new(body).value() else {
        panic!("not a performative");
    };
    match *pair {
        (Value::Ulong(code), Value::List(fields)) => (channel, code, fields),
        other => panic!("{other:?}"),
    }
}

fn codes(got: &[Got]) -> Vec<u64> {
    got.iter().map(|(_, code, _)| *code).collect()
}

fn data(text: &str) -> Vec<u8> {
    [&[0x00, 0x53, 0x75, 0xa0, text.len() as u8], text.as_bytes()].concat()
}

#[test]
fn a_silent_peer_is_dropped_after_the_deadline() {
    let mut peer = Peer::new();
    peer.bytes(b"AMQP\x03\x01\x00\x00");
    peer.output_after_headers(1);
    peer.later(Duration::from_millis(9_999));
    assert!(!peer.connection.is_finished());
    assert_eq!(
        peer.connection.deadline(),
        Some(peer.now + Duration::from_millis(1))
    );
    peer.later(Duration::from_millis(1));
    assert!(peer.connection.is_finished());
}

#[test]
fn heartbeats_keep_half_the_peer_s_timeout() {
    let mut peer = Peer::opened();
    peer.connection.note_written(peer.now);
    peer.later(Duration::from_millis(1_999));
    assert!(peer.output().is_empty());
    peer.later(Duration::from_millis(1));
    assert_eq!(codes(&peer.output()), [0]);
}

#[test]
fn dispositions_come_late_and_together() {
    let mut peer = Peer::opened();
    peer.attach(0, false, "hub/Partitions/0");
    assert_eq!(
        codes(&peer.output()),
        [descriptor::ATTACH, descriptor::FLOW]
    );
    for id in 0..3 {
        peer.send(0, id, false, &data("x"));
    }
    assert!(peer.output().is_empty());
    peer.later(Duration::from_millis(1));
    assert!(peer.output().is_empty());
    peer.later(Duration::from_millis(3));
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::DISPOSITION]);
    let fields = &got[0].2;
    assert_eq!(
        fields[0..4],
        [
            Value::Bool(true),
            Value::Uint(0),
            Value::Uint(2),
            Value::Bool(true)
        ]
    );
    let accepted = (Value::Ulong(descriptor::ACCEPTED), Value::List(Vec::new()));
    assert_eq!(fields[4], Value::Described(Box::new(accepted)));
    let hub = peer.service.broker.hub("hub").unwrap();
    assert_eq!(hub.partition("0").unwrap().state().last_sequence_number, 2);
}

#[test]
fn a_detach_settles_what_is_owed_before_it_is_answered() {
    let mut peer = Peer::opened();
    peer.attach(0, false, "hub");
    peer.output();
    peer.send(0, 0, false, &data("x"));
    peer.frame(0, descriptor::DETACH, |f| {
        f.uint(0).boolean(true);
    });
    assert_eq!(
        codes(&peer.output()),
        [descriptor::DISPOSITION, descriptor::DETACH]
    );
}

#[test]
fn the_answer_to_a_detach_waits_a_little() {
    let mut peer = Peer::opened();
    peer.attach(0, false, "hub");
    assert_eq!(peer.connection.output_delay(), Duration::ZERO);
    peer.output();
    peer.frame(0, descriptor::DETACH, |f| {
        f.uint(0).boolean(true);
    });
    assert_eq!(
        peer.connection.output_delay(),
        crate::amqp::limits::DETACH_DELAY
    );
    assert_eq!(codes(&peer.output()), [descriptor::DETACH]);
    assert_eq!(peer.connection.output_delay(), Duration::ZERO);
    // Nothing that comes after it waits.
    peer.attach(0, false, "hub");
    assert_eq!(peer.connection.output_delay(), Duration::ZERO);
}

#[test]
fn an_oversize_message_is_rejected_and_not_kept() {
    let mut peer = Peer::opened();
    peer.attach(0, false, "hub/Partitions/0");
    peer.output();
    let piece = vec![0; 60_000];
    for _ in 0..18 {
        peer.send(0, 5, true, &piece);
    }
    peer.send(0, 5, false, &piece);
    peer.later(Duration::from_millis(4));
    let got = peer.output();
    let (_, code, fields) = got.last().unwrap();
    assert_eq!(*code, descriptor::DISPOSITION);
    let state = format!("{:?}", fields[4]);
    assert!(state.contains("amqp:link:message-size-exceeded"), "{state}");
    assert!(
        state.contains("delivery-id:5, size:1140000 bytes"),
        "{state}"
    );
    let hub = peer.service.broker.hub("hub").unwrap();
    assert!(hub.partition("0").unwrap().state().is_empty);
}

#[test]
fn a_refusal_is_an_attach_without_termini_and_a_detach() {
    let mut peer = Peer::opened();
    peer.attach(7, true, "nohub/ConsumerGroups/$Default/Partitions/0");
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::ATTACH, descriptor::DETACH]);
    let attach = &got[0].2;
    assert_eq!(attach.len(), 14);
    assert_eq!((&attach[5], &attach[6]), (&Value::Null, &Value::Null));
    let detach = &got[1].2;
    assert_eq!(detach[0..2], [Value::Uint(7), Value::Bool(true)]);
    assert!(format!("{:?}", detach[2]).contains("amqp:not-found"));
    // Frames that crossed it are ignored, and the handle is free after the peer's detach.
    peer.credit(7, 10, false);
    peer.frame(0, descriptor::DETACH, |f| {
        f.uint(7).boolean(true);
    });
    assert!(peer.output().is_empty());
    peer.attach(7, true, "hub/ConsumerGroups/$Default/Partitions/0");
    assert_eq!(codes(&peer.output()), [descriptor::ATTACH]);
}

#[test]
fn drain_gives_credit_back() {
    let mut peer = Peer::opened();
    peer.attach(0, true, "hub/ConsumerGroups/$Default/Partitions/0");
    peer.output();
    peer.credit(0, 10, true);
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::FLOW]);
    let fields = &got[0].2;
    assert_eq!(fields[5..7], [Value::Uint(10), Value::Uint(0)]);
    assert_eq!(fields[8], Value::Bool(true));
}

#[test]
fn a_waiting_receiver_is_woken_by_an_append() {
    let mut peer = Peer::opened();
    peer.attach(0, true, "hub/ConsumerGroups/$Default/Partitions/0");
    peer.credit(0, 2, false);
    peer.output();
    let hub = peer.service.broker.hub("hub").unwrap();
    let message = crate::broker::Message::parse(&data("x").into()).unwrap();
    for _ in 0..3 {
        hub.partition("0")
            .unwrap()
            .append(std::slice::from_ref(&message))
            .unwrap();
    }
    peer.signals();
    assert_eq!(
        codes(&peer.output()),
        [descriptor::TRANSFER, descriptor::TRANSFER]
    );
}

#[test]
fn bytes_in_any_pieces_give_the_same_answers() {
    let mut peer = Peer::new();
    let mut input = BytesMut::new();
    let sasl_init = b"\0\0\0\x19\x02\x01\0\0\0\x53\x41\xc0\x0c\x02\xa3\x07MSSBCBS\xa0\x00";
    let open = b"\0\0\0\x11\x02\0\0\0\0\x53\x10\xc0\x04\x01\xa1\x01c";
    let script = [
        &b"AMQP\x03\x01\x00\x00"[..],
        sasl_init,
        b"AMQP\x00\x01\x00\x00",
        open,
    ];
    for byte in script.concat() {
        input.put_u8(byte);
        peer.connection.on_bytes(&mut input, peer.now);
    }
    assert!(input.is_empty());
    let output = peer.connection.output();
    let bytes = output.copy_to_bytes(output.remaining());
    assert!(bytes.starts_with(b"AMQP\x03\x01\x00\x00"));
    assert_eq!(bytes.windows(7).filter(|w| w == b"MSSBCBS").count(), 1);
    // Outcome 0, then the AMQP header, then open.
    let second = bytes
        .windows(8)
        .position(|w| w == b"AMQP\x00\x01\x00\x00")
        .unwrap();
    assert_eq!(bytes[second + 8 + 8..][..3], [0x00, 0x53, 0x10]);
}

#[test]
fn a_peer_that_breaks_the_rules_is_closed_with_a_reason() {
    let bad_frames: [&[u8]; 6] = [
        b"\xff\xff\xff\xff\x02\0\0\0",
        b"\0\0\0\x07\x02\0\0\0",
        b"\0\0\0\x08\x02\x07\0\0",
        b"\0\0\0\x0c\x02\0\0\0\0\x53\x99\x45",
        b"\0\0\0\x0c\x02\0\0\0text",
        b"\0\0\0\x0c\x02\x01\0\0\0\x53\x41\x45",
    ];
    for bytes in bad_frames {
        let mut peer = Peer::opened();
        peer.bytes(bytes);
        let got = peer.output();
        assert_eq!(codes(&got), [descriptor::CLOSE], "{bytes:?}");
        assert_ne!(got[0].2[0], Value::Null);
        assert!(!peer.connection.is_finished());
        peer.frame(0, descriptor::CLOSE, |f| {
            f.null();
        });
        assert!(peer.connection.is_finished());
    }
    let mut peer = Peer::new();
    peer.bytes(b"GET / HTTP/1.1\r\n\r\n");
    let output = peer.connection.output();
    output.advance(output.remaining());
    assert!(peer.connection.is_finished());
}

#[test]
fn channels_links_and_begins_are_bounded() {
    let mut peer = Peer::opened();
    peer.begin(256);
    assert_eq!(codes(&peer.output()), [descriptor::CLOSE]);

    let mut peer = Peer::opened();
    for handle in 0..1024 {
        peer.attach(handle, true, "$cbs");
    }
    peer.output();
    peer.attach(1024, true, "$cbs");
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::END]);
    assert!(format!("{:?}", got[0].2).contains("resource-limit-exceeded"));

    let mut peer = Peer::opened();
    for _ in 0..10_000 {
        peer.begin(1);
        peer.frame(1, descriptor::END, |f| {
            f.null();
        });
        assert_eq!(codes(&peer.output()), [descriptor::BEGIN, descriptor::END]);
    }
    assert_eq!(peer.connection.sessions.len(), 1);
}

#[test]
fn more_transfers_than_credit_detach_the_link() {
    let mut peer = Peer::opened();
    let withhold = crate::amqp::fault_rules::Effect::WithholdCredit;
    peer.service
        .faults
        .switch(&withhold, Scope::default(), true);
    peer.attach(0, false, "hub");
    peer.output();
    peer.send(0, 0, false, &data("x"));
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::DETACH]);
    assert!(format!("{:?}", got[0].2).contains("transfer-limit-exceeded"));
}

#[test]
fn replies_wait_for_credit_up_to_a_number() {
    let mut peer = Peer::opened();
    peer.attach(0, false, "$cbs");
    peer.attach(1, true, "$cbs");
    peer.output();
    for id in 0..64 {
        peer.send(0, id, false, &data("x"));
    }
    peer.connection.pump();
    assert!(!codes(&peer.output()).contains(&descriptor::TRANSFER));
    peer.credit(1, 1, false);
    assert_eq!(codes(&peer.output()), [descriptor::TRANSFER]);
    for id in 64..66 {
        peer.send(0, id, false, &data("x"));
    }
    let got = peer.output();
    assert!(codes(&got).contains(&descriptor::DETACH));
    assert!(format!("{got:?}").contains("resource-limit-exceeded"));
}

#[test]
fn links_need_a_grant_and_end_with_it() {
    let keys = Keys::new([("name".to_owned(), "key".to_owned())].into());
    let mut peer = Peer::with_keys(keys).open();
    let address = "hub/ConsumerGroups/$Default/Partitions/0";
    peer.attach(0, true, address);
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::ATTACH, descriptor::DETACH]);
    assert!(format!("{:?}", got[1]).contains("amqp:unauthorized-access"));

    let now_s = crate::amqp::sas::now_s();
    let grants = &mut peer.connection.core.grants;
    grants.add("sb://host/HUB/consumergroups/$default", now_s + 1000, now_s);
    peer.attach(1, true, address);
    assert_eq!(codes(&peer.output()), [descriptor::ATTACH]);
    peer.later(Duration::from_secs(1));
    assert!(!codes(&peer.output()).contains(&descriptor::DETACH));
    peer.connection
        .core
        .grants
        .add("hub/consumergroups/$default", now_s, now_s);
    peer.later(Duration::from_secs(1));
    let got = peer.output();
    assert!(codes(&got).contains(&descriptor::DETACH));
    assert_eq!(
        peer.service.broker.hub("hub").unwrap().receiver_count("0"),
        0
    );
}
