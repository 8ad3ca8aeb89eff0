//! What the encoder writes and the decoder takes, down to the bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::encode::put_value;
use super::frame::{FrameError, next_frame};
use super::incoming::{Performative, performative, sasl_init};
use super::outgoing::{self, Outcome, TransferHead};
use super::{DecodeError, Decoder, Value};
use crate::amqp::errors::AmqpError;
use crate::amqp::limits::MAX_DEPTH;

fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    Decoder::new(bytes).value()
}

/// Descriptor and fields of the only frame in `buf`.
fn fields(buf: &BytesMut) -> (u64, Vec<Value>) {
    let mut buf = buf.clone();
    let frame = next_frame(&mut buf, u32::MAX).unwrap().unwrap();
    assert!(buf.is_empty());
    match decode(&frame.body).unwrap() {
        Value::Described(pair) => match *pair {
            (Value::Ulong(code), Value::List(fields)) => (code, fields),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::Ubyte),
        any::<u16>().prop_map(Value::Ushort),
        any::<u32>().prop_map(Value::Uint),
        any::<u64>().prop_map(Value::Ulong),
        any::<i8>().prop_map(Value::Byte),
        any::<i16>().prop_map(Value::Short),
        any::<i32>().prop_map(Value::Int),
        any::<i64>().prop_map(Value::Long),
        (-1e30_f64..1e30).prop_map(Value::Double),
        any::<char>().prop_map(|c| Value::Char(c.into())),
        any::<i64>().prop_map(Value::Timestamp),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|b| Value::Binary(b.into())),
        "\\PC{0,100}".prop_map(Value::String),
        "[a-z:.-]{0,300}".prop_map(Value::Symbol),
        prop::collection::vec("[a-z]{0,9}", 1..5)
            .prop_map(|v| Value::Array(v.into_iter().map(Value::String).collect())),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((inner.clone(), inner.clone()), 0..6).prop_map(Value::Map),
            (any::<u64>(), inner)
                .prop_map(|(code, v)| Value::Described(Box::new((Value::Ulong(code), v)))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in values()) {
        let mut buf = BytesMut::new();
        put_value(&mut buf, &value);
        prop_assert_eq!(decode(&buf), Ok(value));
        prop_assert_eq!(Decoder::new(&buf).skip().map(<[u8]>::len), Ok(buf.len()));
    }

    #[test]
    fn every_cut_of_a_value_is_an_error(value in values(), cut in any::<prop::sample::Index>()) {
        let mut buf = BytesMut::new();
        put_value(&mut buf, &value);
        let cut = cut.index(buf.len());
        prop_assert!(decode(&buf[..cut]).is_err());
        prop_assert!(Decoder::new(&buf[..cut]).skip().is_err());
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = Decoder::new(&bytes).skip();
        let body = Bytes::from(bytes.clone());
        let _ = performative(&body);
        let _ = sasl_init(&body);
        let _ = next_frame(&mut BytesMut::from(&bytes[..]), 512);
        for code in 0x10..=0x18 {
            let mut frame = vec![0x00, 0x53, code, 0xc0, bytes.len() as u8, 12];
            frame.extend_from_slice(&bytes);
            let _ = performative(&Bytes::from(frame));
        }
    }
}

#[test]
fn every_performative_has_all_its_fields() {
    let error = AmqpError::new("amqp:not-found", "text");
    let mut buf = BytesMut::new();
    let mut check = |write: &dyn Fn(&mut BytesMut), code: u64, count: usize| {
        buf.clear();
        write(&mut buf);
        let (got, fields) = fields(&buf);
        assert_eq!((got, fields.len()), (code, count));
        // `00 53 xx` behind the frame header, then a list with an explicit count.
        assert_eq!(buf[8..11], [0x00, 0x53, code as u8]);
        assert_ne!(buf[11], 0x45);
    };
    check(&|buf| outgoing::open(buf, "id", None), 0x10, 10);
    check(&|buf| outgoing::begin(buf, 3, 1), 0x11, 8);
    let session = outgoing::SessionFlow {
        next_incoming_id: 0,
        incoming_window: 1,
        next_outgoing_id: 1,
        outgoing_window: 1,
    };
    check(&|buf| outgoing::flow(buf, 0, session, None), 0x13, 11);
    let head = TransferHead {
        handle: 0,
        delivery_id: 0,
        settled: false,
        more: false,
        aborted: false,
    };
    check(&|buf| outgoing::transfer(buf, 0, head, 0), 0x14, 11);
    let accepted = Outcome::Accepted;
    check(
        &|buf| outgoing::disposition(buf, 0, 1, 1, &accepted),
        0x15,
        6,
    );
    check(
        &|buf| outgoing::detach(buf, 0, 1, true, Some(&error)),
        0x16,
        3,
    );
    check(&|buf| outgoing::end(buf, 0, None), 0x17, 1);
    check(&|buf| outgoing::close(buf, None), 0x18, 1);
}

#[test]
fn a_transfer_states_id_tag_and_format() {
    let mut buf = BytesMut::new();
    for (delivery_id, more) in [(0, false), (255, true), (u32::MAX, false)] {
        buf.clear();
        let head = TransferHead {
            handle: 300,
            delivery_id,
            settled: true,
            more,
            aborted: false,
        };
        outgoing::transfer(&mut buf, 7, head, 5);
        assert!(buf.len() <= outgoing::TRANSFER_OVERHEAD);
        buf.extend_from_slice(b"hello");
        let frame = next_frame(&mut buf.clone(), 512).unwrap().unwrap();
        assert_eq!(frame.channel, 7);
        let Performative::Transfer(transfer) = performative(&frame.body).unwrap() else {
            panic!("no transfer");
        };
        assert_eq!(transfer.delivery_id, Some(delivery_id));
        assert_eq!(transfer.message_format, Some(0));
        assert_eq!((transfer.settled, transfer.more), (Some(true), more));
        assert_eq!(&transfer.payload[..], b"hello");
    }
}

/// INTEROP: an `open` with one field, as fe2o3-amqp writes it, and one with symbols.
#[test]
fn takes_the_short_performatives_of_other_libraries() {
    let open = Bytes::from_static(b"\x00\x53\x10\xc0\x06\x01\xa1\x03srv");
    match performative(&open).unwrap() {
        Performative::Open(open) => {
            assert_eq!(open.container_id, "srv");
            assert_eq!(open.max_frame_size, None);
        }
        other => panic!("{other:?}"),
    }
    let close = Bytes::from_static(b"\x00\x53\x18\x45");
    assert!(matches!(performative(&close), Ok(Performative::Close)));
    let long_descriptor = Bytes::from_static(b"\x00\x80\0\0\0\0\0\0\0\x18\x45");
    assert!(matches!(
        performative(&long_descriptor),
        Ok(Performative::Close)
    ));
    let init = Bytes::from_static(b"\x00\x53\x41\xc0\x0c\x01\xa3\x09ANONYMOUS");
    assert_eq!(sasl_init(&init).unwrap(), "ANONYMOUS");
}

#[test]
fn a_bomb_of_empty_elements_is_refused() {
    // Nine bytes that ask for four billion nulls, and their like.
    for bytes in [
        &b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40"[..],
        b"\xf0\0\0\0\x05\0\x0f\xff\xff\x45",
        b"\xd0\0\0\0\x04\xff\xff\xff\xff",
        b"\xe0\x02\xff\x40",
    ] {
        let result = decode(bytes);
        if bytes[0] == 0xe0 {
            assert!(matches!(result, Ok(Value::Array(items)) if items.len() == 255));
        } else {
            assert!(result.is_err(), "{bytes:?}");
        }
    }
    // Many small bombs share one budget.
    let one = b"\xf0\0\0\0\x05\0\0\xff\xff\x40";
    let mut list = vec![0xd0];
    list.extend_from_slice(&(4 + 20 * one.len() as u32).to_be_bytes());
    list.extend_from_slice(&20_u32.to_be_bytes());
    for _ in 0..20 {
        list.extend_from_slice(one);
    }
    assert_eq!(decode(&list), Err(DecodeError::Elements));
}

#[test]
fn nesting_is_bounded_and_skipping_does_not_recurse() {
    let mut value = vec![0x40];
    for _ in 0..MAX_DEPTH {
        value.splice(0..0, [0xc0, value.len() as u8 + 1, 1]);
        if value.len() > 250 {
            break;
        }
    }
    assert!(decode(&value).is_ok());
    // Descriptors nest without a size of their own.
    let deep = [&[0x00; 100_000][..], &[0x40; 100_001]].concat();
    assert_eq!(decode(&deep), Err(DecodeError::Depth));
    assert!(Decoder::new(&deep).skip().is_ok());
    let mut lists = vec![0x45];
    for _ in 0..1000 {
        let size = (lists.len() as u32 + 4).to_be_bytes();
        lists = [&[0xd0][..], &size, &1_u32.to_be_bytes(), &lists].concat();
    }
    assert_eq!(decode(&lists), Err(DecodeError::Depth));
}

#[test]
fn frames_outside_the_limits_are_refused_before_they_are_read() {
    let frame = |bytes: &[u8]| next_frame(&mut BytesMut::from(bytes), 512).map(|f| f.is_some());
    assert_eq!(frame(&[0, 0, 0, 8, 2, 0, 0, 0]), Ok(true));
    assert_eq!(frame(&[0, 0, 0, 9, 2, 0, 0, 0]), Ok(false));
    assert_eq!(frame(&[0, 0, 0]), Ok(false));
    let too_large = FrameError::TooLarge {
        size: u32::MAX,
        limit: 512,
    };
    assert_eq!(frame(&[255, 255, 255, 255, 2, 0, 0, 0]), Err(too_large));
    for (size, offset) in [(7, 2), (0, 2), (8, 1), (8, 0), (8, 3)] {
        let malformed = FrameError::Malformed { size, offset };
        assert_eq!(
            frame(&[0, 0, 0, size as u8, offset, 0, 0, 0]),
            Err(malformed)
        );
    }
    assert_eq!(frame(&[0, 0, 0, 8, 2, 9, 0, 0]), Err(FrameError::Type(9)));
    // An extended header is stepped over.
    assert_eq!(frame(&[0, 0, 0, 12, 3, 0, 0, 0, 1, 2, 3, 4]), Ok(true));
}
