//! The fuzz targets of what a service sends: frames through the guard, messages through the scanner, and both
//! through the decoder of the AMQP library, which must survive everything they let through.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf as _, Bytes, BytesMut};
use fe2o3_amqp::frames::{amqp, sasl};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use serde_amqp::Value;
use serde_amqp::read::IoReader;
use tokio_util::codec::Decoder as _;

use super::events::{Links, Payload, Registered};
use super::filter;
use super::guard::FrameGuard;
use super::scan::Scanner;
pub(crate) use super::websocket::fuzz::{frames, upgrade};
use super::wire::message;
use crate::model::EventPosition;

const MAX_FRAME: u32 = 65_536;
/// The library ends a link before a message grows past what was agreed on.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Frames: the guard does not depend on how the stream is cut, and what it gives out can be decoded.
pub(crate) fn stream(data: &[u8]) {
    let whole = guarded(data, data.len().max(1));
    if data.len() < 4096 {
        assert_eq!(guarded(data, 1), whole);
        assert_eq!(guarded(data, 7), whole);
    }
    if let Some(frames) = whole {
        decode(BytesMut::from(&frames[..]));
    }
}

/// What comes out of the guard, or `None` if it ends the connection.
fn guarded(data: &[u8], cut: usize) -> Option<Vec<u8>> {
    let mut guard = FrameGuard::new(MAX_FRAME, MAX_MESSAGE as u64, 10_000, Links::default());
    let mut out = Vec::new();
    for chunk in data.chunks(cut) {
        guard.room().extend_from_slice(chunk);
        guard.check().ok()?;
        while guard.give(1024, |bytes| out.extend_from_slice(bytes)) > 0 {}
    }
    Some(out)
}

/// As the AMQP library does: frames without their size, then the payloads of transfers, joined by link.
fn decode(mut frames: BytesMut) {
    let mut messages: HashMap<(u16, u32), Vec<u8>> = HashMap::new();
    while frames.len() >= 8 {
        if frames.starts_with(b"AMQP") {
            frames.advance(8);
            continue;
        }
        let size = frames.get_u32() as usize;
        let mut frame = frames.split_to(size - 4);
        let _ = sasl::FrameCodec {}.decode(&mut frame.clone());
        let Ok(Some(frame)) = (amqp::FrameDecoder {}).decode(&mut frame) else {
            continue;
        };
        let amqp::FrameBody::Transfer {
            performative,
            payload,
        } = frame.body
        else {
            continue;
        };
        let link = (frame.channel, performative.handle.0);
        let message = messages.entry(link).or_default();
        message.extend_from_slice(&payload);
        if message.len() > MAX_MESSAGE {
            messages.remove(&link);
        } else if !performative.more {
            let whole = messages.remove(&link).unwrap_or_default();
            library(&whole);
        }
    }
}

/// A message: what the scanner lets through does no harm to the library, and what the walk lets through can be
/// decoded, and says what the library says.
pub(crate) fn message(data: &[u8]) {
    let mut scanner = Scanner::up_to(MAX_MESSAGE as u64);
    let mut bytewise = scanner.clone();
    let walk = scanner.walk(data, u64::MAX);
    let is_sound = data
        .chunks(1)
        .all(|byte| bytewise.walk(byte, u64::MAX).is_ok());
    assert_eq!(walk.is_ok(), is_sound);
    if is_sound {
        library(data);
    }
    event(data);
}

fn library(message: &[u8]) {
    let reader = IoReader::new(Bytes::copy_from_slice(message).reader());
    let _ = Body::<Value>::decode_message_from_reader(reader);
}

fn event(message: &[u8]) {
    let raw = Bytes::copy_from_slice(message);
    match message::event(raw.clone()) {
        Ok(event) => {
            assert!(!event.offset().as_str().is_empty());
            assert_eq!(event.encoded_len(), message.len());
            // Each panics in debug builds if it is not what the walk took it for.
            let _ = (event.properties(), event.system_properties());
            let _ = (event.message_properties(), event.last_enqueued());
            let _ = (event.amqp_body(), event.partition_key());
        }
        Err(undecodable) => assert_eq!(undecodable.raw(), &raw),
    }
    let _ = message::too_large(&raw, u64::MAX);
}

/// Frames of an event link that a service sends: what comes of them does not depend on how the stream is cut, and
/// nothing is lost, doubled or given to both sides.
pub(crate) fn events(data: &[u8]) {
    let whole = diverted(data, data.len().max(1));
    if data.len() < 4096 {
        assert_eq!(diverted(data, 1), whole);
        assert_eq!(diverted(data, 7), whole);
    }
    for message in whole.1.into_iter().flatten() {
        event(&message);
    }
}

/// Our side of a connection with an event link on channel 0, handle 0, with credit for eight.
fn attached() -> (FrameGuard, Registered) {
    let links = Links::default();
    let registered = links.register("link".to_owned(), 300, 8 * 1024 * 1024);
    let mut guard = FrameGuard::new(MAX_FRAME, MAX_MESSAGE as u64, 10_000, links);
    let mut sent = BytesMut::new();
    guard
        .send(&OUR_FRAMES.concat(), &mut sent)
        .unwrap_or_else(|error| panic!("{error}"));
    guard.room().extend_from_slice(&THEIR_FRAMES.concat());
    guard.check().unwrap_or_else(|error| panic!("{error}"));
    while guard.give(1024, |_| {}) > 0 {}
    let _ = registered.queue().take(0);
    guard
        .send(OUR_FLOW, &mut sent)
        .unwrap_or_else(|error| panic!("{error}"));
    (guard, registered)
}

/// Begin and attach of a receiver named "link".
const OUR_FRAMES: [&[u8]; 2] = [
    b"\0\0\0\x17\x02\0\0\0\0\x53\x11\xc0\x0a\x04\x40\x43\x70\0\0\x13\x88\x52\x01",
    b"\0\0\0\x16\x02\0\0\0\0\x53\x12\xc0\x09\x03\xa1\x04link\x43\x41",
];

/// The answers: channel 5, first transfer 4294967294, handle 7, first delivery 4294967295.
const THEIR_FRAMES: [&[u8]; 2] = [
    b"\0\0\0\x1a\x02\0\0\x05\0\x53\x11\xc0\x0d\x04\x60\0\0\x70\xff\xff\xff\xfe\x52\x64\x52\x64",
    b"\0\0\0\x22\x02\0\0\x05\0\x53\x12\xc0\x15\x0a\xa1\x04link\x52\x07\x42\x40\x40\x40\x40\x40\x40\x70\xff\xff\xff\xff",
];

/// A flow for handle 0 with made-up numbers.
const OUR_FLOW: &[u8] =
    b"\0\0\0\x18\x02\0\0\0\0\x53\x13\xc0\x0b\x07\x43\x52\x64\x43\x52\x64\x43\x43\x52\x63";

/// What the library gets, and the messages; `None` in their place for those that are too large. Nothing of the rest
/// after the connection is ended.
fn diverted(data: &[u8], cut: usize) -> (Vec<u8>, Vec<Option<Vec<u8>>>) {
    let (mut guard, registered) = attached();
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    for chunk in data.chunks(cut) {
        guard.room().extend_from_slice(chunk);
        let checked = guard.check();
        while guard.give(1024, |bytes| out.extend_from_slice(bytes)) > 0 {}
        if checked.is_err() {
            break;
        }
    }
    // The credit is not told anew, so that there are eight at most.
    let taken = std::iter::from_fn(|| {
        let taken = registered.queue().take(1).messages;
        taken.into_iter().next()
    });
    messages.extend(taken.map(|payload| match payload {
        Payload::Whole(bytes) => Some(bytes.to_vec()),
        Payload::TooLarge { .. } => None,
    }));
    assert!(messages.len() <= 8);
    (out, messages)
}

/// Frames that the library writes: what goes out is whole frames, however they were cut, and all but the flows of the
/// event link as they were.
pub(crate) fn sent(data: &[u8]) {
    let whole = rewritten(data, data.len().max(1));
    if data.len() < 4096 {
        assert_eq!(rewritten(data, 1), whole);
        assert_eq!(rewritten(data, 7), whole);
    }
    let Some(out) = whole else { return };
    let mut frames = &out[..];
    while let Some(size) = frames.first_chunk() {
        let size = match frames.starts_with(b"AMQP") {
            true => 8,
            false => u32::from_be_bytes(*size) as usize,
        };
        frames = &frames[size..];
    }
    assert!(frames.is_empty());
}

/// What goes out, or `None` if the library wrote what is no frame.
fn rewritten(data: &[u8], cut: usize) -> Option<Vec<u8>> {
    let (mut guard, _registered) = attached();
    let mut out = BytesMut::new();
    for chunk in data.chunks(cut) {
        guard.send(chunk, &mut out).ok()?;
    }
    Some(out.to_vec())
}

/// A position is written as one comparison with one quoted value, or not at all.
pub(crate) fn selector(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let number = data
        .first_chunk()
        .map_or(0, |bytes| i64::from_be_bytes(*bytes));
    let since = Duration::from_millis(number.unsigned_abs());
    let mut positions = vec![
        EventPosition::offset(text.as_str()),
        EventPosition::sequence_number(number),
    ];
    let time = match number < 0 {
        true => UNIX_EPOCH.checked_sub(since),
        false => UNIX_EPOCH.checked_add(since),
    };
    positions.extend(time.map(EventPosition::enqueued_time));
    for position in positions {
        for position in [position.clone(), position.inclusive()] {
            let Some(selector) = filter::selector(&position) else {
                continue;
            };
            assert!(selector.starts_with("amqp.annotation.x-opt-"));
            assert!(selector.len() <= 1024 && !selector.contains(char::is_control));
            let quotes: Vec<usize> = selector.match_indices('\'').map(|(at, _)| at).collect();
            assert_eq!(quotes.len(), 2, "{selector}");
            assert_eq!(quotes.last(), Some(&(selector.len() - 1)), "{selector}");
        }
    }
}
