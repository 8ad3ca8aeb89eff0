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

use super::convert::event_parts;
use super::filter;
use super::guard::FrameGuard;
use super::scan::Scanner;
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
    let mut guard = FrameGuard::new(MAX_FRAME, MAX_MESSAGE as u64, 10_000);
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
            event(&whole);
        }
    }
}

/// A message: what the scanner lets through can be decoded.
pub(crate) fn message(data: &[u8]) {
    let mut scanner = Scanner::up_to(MAX_MESSAGE as u64);
    let mut bytewise = scanner.clone();
    let walk = scanner.walk(data, u64::MAX);
    let is_sound = data
        .chunks(1)
        .all(|byte| bytewise.walk(byte, u64::MAX).is_ok());
    assert_eq!(walk.is_ok(), is_sound);
    if is_sound {
        event(data);
    }
}

fn event(message: &[u8]) {
    let reader = IoReader::new(Bytes::copy_from_slice(message).reader());
    if let Ok(message) = Body::<Value>::decode_message_from_reader(reader)
        && let Ok(parts) = event_parts(message)
    {
        assert!(!parts.offset.as_str().is_empty());
    }
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
