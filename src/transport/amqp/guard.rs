//! Looks at every frame before the AMQP library does: malformed frames end the connection, poisonous messages
//! are made undecodable for the one link they are meant for, and the peer's idle timeout is read the cautious
//! way.

use std::collections::HashMap;
use std::io;

use bytes::{Buf as _, BytesMut};

use super::scan::Scanner;

/// Messages that may be incomplete at once. More than a session per partition of the largest hubs.
const MAX_PARTIAL: usize = 4096;

/// PROTOCOL: no AMQP value begins with this byte, so a decoder that meets it stops.
const POISON: u8 = 0xff;

const OPEN: u64 = 0x10;
const TRANSFER: u64 = 0x14;

/// Index of `idle-time-out` among the fields of an open.
const IDLE_TIME_OUT: usize = 4;

/// Takes bytes as they come from the peer and gives out whole frames that are safe to decode.
#[derive(Debug)]
pub(super) struct FrameGuard {
    max_frame_size: usize,
    /// Most bytes that a value may claim.
    max_message_size: u64,
    /// Longest pause between two frames of ours, in milliseconds.
    heartbeat: u32,
    /// Bytes received; the first `safe` of them may be given out.
    bytes: BytesMut,
    safe: usize,
    /// Messages of which not all frames have come, by channel and handle.
    partial: HashMap<(u16, u32), Partial>,
}

#[derive(Debug)]
struct Partial {
    scanner: Scanner,
    is_poisoned: bool,
}

impl FrameGuard {
    /// A guard for frames and messages of at most so many bytes. Heartbeats go out every `heartbeat` milliseconds or
    /// more often.
    pub(super) fn new(max_frame_size: u32, max_message_size: u64, heartbeat: u32) -> Self {
        // Messages that fit into a frame are judged by the library, which has a better error for it.
        let max_message_size = max_message_size.max(u64::from(max_frame_size));
        Self {
            max_frame_size: max_frame_size as usize,
            max_message_size,
            heartbeat,
            bytes: BytesMut::new(),
            safe: 0,
            partial: HashMap::new(),
        }
    }

    /// Room for bytes from the peer.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.bytes.reserve(8 * 1024);
        &mut self.bytes
    }

    /// Moves bytes that are safe into `out`, at most `max`; returns how many.
    pub(super) fn give(&mut self, max: usize, out: impl FnOnce(&[u8])) -> usize {
        let len = self.safe.min(max);
        out(&self.bytes[..len]);
        self.bytes.advance(len);
        self.safe -= len;
        len
    }

    /// Looks at what has come since the last time.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the peer does not keep to the format of frames.
    pub(super) fn check(&mut self) -> io::Result<()> {
        loop {
            let rest = &mut self.bytes[self.safe..];
            let Some(size) = rest.first_chunk().map(|size| u32::from_be_bytes(*size)) else {
                return Ok(());
            };
            // PROTOCOL: between the layers come eight bytes that begin with the name; as a size it would be far
            // beyond every limit.
            let size = if rest.starts_with(b"AMQP") {
                8
            } else {
                size as usize
            };
            if size < 8 || size > self.max_frame_size {
                return Err(malformed("frame size"));
            }
            let Some(frame) = rest.get_mut(..size) else {
                return Ok(());
            };
            let mut size = size;
            if !frame.starts_with(b"AMQP") {
                check_frame(frame, &mut self.partial, self.max_message_size)?;
                if let Some(open) = with_heartbeat(frame, self.heartbeat) {
                    let rest = self.bytes.split_off(self.safe + size);
                    self.bytes.truncate(self.safe);
                    self.bytes.extend_from_slice(&open);
                    self.bytes.unsplit(rest);
                    size = open.len();
                }
            }
            self.safe += size;
        }
    }
}

/// An open frame that asks for heartbeats at half of the peer's idle timeout, or every `heartbeat` milliseconds
/// if that is more often. `None` if the frame is no open.
///
/// PROTOCOL: the library (0.18.4, connection/heartbeat.rs) sends a heartbeat when the whole timeout has passed,
/// which is too late for a peer that means what it says; every SDK sends at half of it. The service has been
/// seen to close connections after the timeout that the *client* asked for
/// ("inactive for more than the allowed 60000 milliseconds"), so ours counts as well.
fn with_heartbeat(frame: &[u8], heartbeat: u32) -> Option<Vec<u8>> {
    let (header, body) = frame.split_at_checked(usize::from(frame[4]) * 4)?;
    let (OPEN, list) = described(body)? else {
        return None;
    };
    let mut fields = Vec::new();
    let mut rest = list_fields(list)?;
    while !rest.is_empty() {
        let len = Scanner::default().walk(rest, 1).ok()?;
        let (field, tail) = rest.split_at(len);
        fields.push(field);
        rest = tail;
    }
    let theirs = fields
        .get(IDLE_TIME_OUT)
        .and_then(|field| uint(field))
        .filter(|millis| *millis > 0);
    let period = theirs.map_or(heartbeat, |millis| heartbeat.min(millis / 2).max(1));
    let mut idle = [0x70; 5];
    idle[1..].copy_from_slice(&period.to_be_bytes());
    fields.resize(fields.len().max(IDLE_TIME_OUT + 1), &[0x40]);
    fields[IDLE_TIME_OUT] = &idle;
    let count = u32::try_from(fields.len()).ok()?;
    let fields = fields.concat();
    let len = u32::try_from(fields.len() + 4).ok()?;
    let mut open = [
        header,
        &[0x00, 0x53, 0x10, 0xd0],
        &len.to_be_bytes(),
        &count.to_be_bytes(),
        &fields,
    ]
    .concat();
    let size = u32::try_from(open.len()).ok()?;
    open[..4].copy_from_slice(&size.to_be_bytes());
    Some(open)
}

/// The descriptor code of a performative and its list.
fn described(performative: &[u8]) -> Option<(u64, &[u8])> {
    match performative {
        [0x00, 0x53, code, list @ ..] => Some((u64::from(*code), list)),
        [0x00, 0x80, rest @ ..] => {
            let (code, list) = rest.split_first_chunk()?;
            Some((u64::from_be_bytes(*code), list))
        }
        _ => None,
    }
}

/// The fields of a list, one after the other.
fn list_fields(list: &[u8]) -> Option<&[u8]> {
    match list {
        [0x45] => Some(&[]),
        [0xc0, _, _, fields @ ..] => Some(fields),
        [0xd0, rest @ ..] => rest.get(8..),
        _ => None,
    }
}

fn uint(field: &[u8]) -> Option<u32> {
    match field {
        [0x43] => Some(0),
        [0x52, n] => Some(u32::from(*n)),
        [0x70, n @ ..] => Some(u32::from_be_bytes(n.try_into().ok()?)),
        _ => None,
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn check_frame(
    frame: &mut [u8],
    partial: &mut HashMap<(u16, u32), Partial>,
    max_message_size: u64,
) -> io::Result<()> {
    let body_at = usize::from(frame[4]) * 4;
    let channel = u16::from_be_bytes([frame[6], frame[7]]);
    let body = frame
        .get_mut(body_at..)
        .filter(|_| body_at >= 8)
        .ok_or_else(|| malformed("frame header"))?;
    if body.is_empty() {
        return Ok(());
    }
    let mut scanner = Scanner::default();
    let len = scanner
        .walk(body, 1)
        .map_err(|_| malformed("performative"))?;
    if scanner.finished() != 1 {
        return Err(malformed("performative"));
    }
    let (performative, payload) = body.split_at_mut(len);
    // PROTOCOL: every performative has a number, and a transfer alone has something behind it. The decoder takes names
    // and values without a descriptor as well, so that what is behind them would get past us.
    match described(performative) {
        Some((TRANSFER, list)) => {
            let transfer = Transfer::read(list).ok_or_else(|| malformed("transfer"))?;
            let link = (channel, transfer.handle);
            let message = partial.remove(&link).unwrap_or_else(|| Partial {
                scanner: Scanner::up_to(max_message_size),
                is_poisoned: false,
            });
            check_payload(link, &transfer, payload, message, partial)
        }
        Some(_) if payload.is_empty() => Ok(()),
        Some(_) | None => Err(malformed("performative")),
    }
}

fn check_payload(
    link: (u16, u32),
    transfer: &Transfer,
    payload: &mut [u8],
    mut message: Partial,
    partial: &mut HashMap<(u16, u32), Partial>,
) -> io::Result<()> {
    let from = if message.is_poisoned {
        Some(0)
    } else {
        match message.scanner.walk(payload, u64::MAX) {
            Ok(_) => None,
            Err((at, _)) => Some(at),
        }
    };
    if let Some(from) = from {
        payload[from..].fill(POISON);
        message.is_poisoned = true;
    }
    if transfer.more && !transfer.aborted {
        if partial.len() >= MAX_PARTIAL {
            return Err(malformed("too many incomplete messages"));
        }
        partial.insert(link, message);
    }
    Ok(())
}

/// What matters of a transfer performative.
#[derive(Debug, PartialEq, Eq)]
struct Transfer {
    handle: u32,
    more: bool,
    aborted: bool,
}

impl Transfer {
    /// `None` if the list cannot be that of a transfer. The scanner has walked over it before.
    fn read(list: &[u8]) -> Option<Self> {
        let mut rest = list_fields(list)?;
        let mut fields = [None; 10];
        for field in &mut fields {
            if rest.is_empty() {
                break;
            }
            let len = Scanner::default().walk(rest, 1).ok()?;
            *field = Some(&rest[..len]);
            rest = &rest[len..];
        }
        Some(Self {
            handle: uint(fields[0]?)?,
            more: is_true(fields[5])?,
            aborted: is_true(fields[9])?,
        })
    }
}

fn is_true(field: Option<&[u8]>) -> Option<bool> {
    match field {
        None | Some([0x40 | 0x42] | [0x56, 0x00]) => Some(false),
        Some([0x41] | [0x56, 0x01]) => Some(true),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(channel: u8, performative: &[u8], payload: &[u8]) -> Vec<u8> {
        let size = (8 + performative.len() + payload.len()) as u32;
        [
            &size.to_be_bytes()[..],
            &[2, 0, 0, channel],
            performative,
            payload,
        ]
        .concat()
    }

    /// A transfer on handle 0 with the fields up to `more`.
    fn transfer(more: bool) -> Vec<u8> {
        let more = if more { 0x41 } else { 0x42 };
        vec![
            0x00, 0x53, 0x14, 0xc0, 0x08, 0x06, 0x43, 0x43, 0xa0, 0x00, 0x43, 0x41, more,
        ]
    }

    const MAX_MESSAGE: u64 = 1024 * 1024;

    fn through(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut guard = FrameGuard::new(65_536, MAX_MESSAGE, 10_000);
        let mut out = Vec::new();
        for chunk in bytes.chunks(7) {
            guard.room().extend_from_slice(chunk);
            guard.check()?;
            while guard.give(5, |bytes| out.extend_from_slice(bytes)) > 0 {}
        }
        Ok(out)
    }

    /// An amqp-value section with `depth` lists in one another.
    fn bomb(depth: usize) -> Vec<u8> {
        let list = (0..depth).fold(vec![0x40], |inner, _| {
            let size = (inner.len() as u32 + 4).to_be_bytes();
            [&[0xd0][..], &size, &[0, 0, 0, 1], &inner].concat()
        });
        [&[0x00, 0x53, 0x77][..], &list].concat()
    }

    #[test]
    fn good_frames_pass_unchanged() {
        let bytes = [
            &b"AMQP\x03\x01\x00\x00"[..],
            &b"AMQP\x00\x01\x00\x00"[..],
            &frame(0, &[], &[]),
            &frame(1, &transfer(true), &bomb(20)[..50]),
            &frame(
                2,
                &transfer(false),
                &[0x00, 0x53, 0x75, 0xa0, 0x02, 0xff, 0xff],
            ),
            &frame(1, &transfer(false), &bomb(20)[50..]),
        ]
        .concat();
        assert_eq!(through(&bytes).unwrap(), bytes);
    }

    #[test]
    fn heartbeats_come_at_half_of_the_shorter_timeout() {
        let open = |idle: &[u8]| {
            let fields = [&[0xa1, 0x01, b's', 0x40, 0x40, 0x40][..], idle, &[0x40]].concat();
            let size = u8::try_from(fields.len() + 1).unwrap();
            let list = [&[0x00, 0x53, 0x10, 0xc0, size, 6][..], &fields].concat();
            frame(0, &list, &[])
        };
        let cases: [(&[u8], u32); 5] = [
            (&[0x70, 0x00, 0x03, 0xa9, 0x80], 10_000), // 240 s
            (&[0x70, 0x00, 0x00, 0x1f, 0x40], 4_000),  // 8 s
            (&[0x52, 200], 100),
            (&[0x40], 10_000),
            (&[0x43], 10_000),
        ];
        for (idle, period) in cases {
            let heartbeat = frame(0, &[], &[]);
            let out = through(&[open(idle), heartbeat.clone()].concat()).unwrap();
            let opened = out.strip_suffix(&heartbeat[..]).unwrap();
            let mut expected = vec![0x70];
            expected.extend(period.to_be_bytes());
            let expected = open(&expected);
            // The fields after the list's head, and a size that fits.
            assert!(opened.ends_with(&expected[14..]), "{idle:?}");
            assert_eq!(
                opened[..4],
                u32::try_from(opened.len()).unwrap().to_be_bytes()
            );
        }
        let bare = frame(0, &[0x00, 0x53, 0x10, 0xc0, 0x04, 1, 0xa1, 0x01, b's'], &[]);
        assert!(
            through(&bare)
                .unwrap()
                .ends_with(&[0x40, 0x40, 0x40, 0x70, 0, 0, 0x27, 0x10])
        );
    }

    #[test]
    fn a_bomb_is_spoilt_and_its_neighbours_live() {
        let good = frame(2, &transfer(false), &bomb(3));
        let bytes = [frame(1, &transfer(false), &bomb(3000)), good.clone()].concat();
        let out = through(&bytes).unwrap();
        assert_eq!(out.len(), bytes.len());
        assert!(out.ends_with(&good));
        let spoilt = &out[8 + transfer(false).len()..out.len() - good.len()];
        assert!(spoilt.ends_with(&[POISON; 1000]));
        assert!(serde_amqp::from_slice::<serde_amqp::Value>(spoilt).is_err());
    }

    #[test]
    fn a_bomb_in_several_frames_stays_spoilt_to_its_end() {
        let bomb = bomb(3000);
        let bytes = [
            frame(1, &transfer(true), &bomb[..20_000]),
            frame(1, &transfer(true), &bomb[20_000..21_000]),
            frame(1, &transfer(false), &bomb[21_000..]),
            frame(1, &transfer(false), &[0x00, 0x53, 0x75, 0xa0, 0x01, 0x07]),
        ]
        .concat();
        let out = through(&bytes).unwrap();
        let second = 20_000 + 2 * (8 + transfer(true).len());
        assert!(
            out[second..second + 1000]
                .iter()
                .all(|&byte| byte == POISON)
        );
        assert!(out.ends_with(&[0x00, 0x53, 0x75, 0xa0, 0x01, 0x07]));
    }

    /// The decoder would make room for all of it before it finds that the message has ended.
    #[test]
    fn a_value_that_claims_more_than_a_message_may_have_is_spoilt() {
        for claim in [0xb0, 0xb1, 0xb3] {
            let bomb = [0x00, 0x53, 0x77, claim, 0xff, 0xff, 0xff, 0xff];
            let bytes = [
                frame(1, &transfer(true), &bomb),
                frame(1, &transfer(false), &[]),
            ]
            .concat();
            let out = through(&bytes).unwrap();
            let payload = 8 + transfer(true).len();
            assert_eq!(out[payload + 3..payload + 8], [POISON; 5]);
        }
    }

    #[test]
    fn nothing_gets_past_behind_an_odd_performative() {
        let bomb = [0xd0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let named = |name: &[u8]| {
            let size = u8::try_from(name.len()).unwrap();
            let list = &transfer(false)[3..];
            [&[0x00, 0xa3, size][..], name, list].concat()
        };
        let odd: [&[u8]; 5] = [
            // Found by the fuzzer: a number alone is taken for a descriptor.
            &[0x53, 0x40, 0x00],
            &named(b"amqp:transfer:list"),
            // A disposition, a transfer with a descriptor too wide, and no performative at all.
            &[0x00, 0x53, 0x15, 0x45],
            &[&[0x00, 0x70, 0, 0, 0, 0x14][..], &transfer(false)[3..]].concat(),
            &[0x40],
        ];
        for performative in odd {
            let bytes = frame(1, performative, &bomb);
            assert!(through(&bytes).is_err(), "{performative:02x?}");
        }
    }

    #[test]
    fn malformed_frames_end_the_connection() {
        let huge = [0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0];
        let cases: [&[u8]; 6] = [
            &[0, 0, 0, 7, 2, 0, 0, 0],
            &huge,
            &[0, 1, 0, 1, 2, 0, 0, 0],
            &[0, 0, 0, 9, 1, 0, 0, 0, 0x40],
            &frame(0, &bomb(3000), &[]),
            // A sasl-mechanisms frame that claims four gigabytes.
            &frame(
                0,
                &[0x00, 0x53, 0x40, 0xd0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1],
                &[],
            ),
        ];
        for bytes in cases {
            assert!(through(bytes).is_err(), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_pass_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = through(&bytes);
            let _ = through(&frame(1, &transfer(false), &bytes));
            let _ = through(&frame(1, &bytes, &[]));
        }
    }
}
