//! Looks at every frame before the AMQP library does: malformed frames end the connection, poisonous messages
//! are made undecodable for the one link they are meant for.

use std::collections::HashMap;
use std::io;

use bytes::{Buf as _, BytesMut};

use super::scan::Scanner;

/// Messages that may be incomplete at once. More than a session per partition of the largest hubs.
const MAX_PARTIAL: usize = 4096;

/// PROTOCOL: no AMQP value begins with this byte, so a decoder that meets it stops.
const POISON: u8 = 0xff;

const TRANSFER: u64 = 0x14;

/// Takes bytes as they come from the peer and gives out whole frames that are safe to decode.
#[derive(Debug)]
pub(super) struct FrameGuard {
    max_frame_size: usize,
    /// Bytes received; the first `safe` of them may be given out.
    bytes: BytesMut,
    safe: usize,
    /// Messages of which not all frames have come, by channel and handle.
    partial: HashMap<(u16, u32), Partial>,
}

#[derive(Debug, Default)]
struct Partial {
    scanner: Scanner,
    is_poisoned: bool,
}

impl FrameGuard {
    pub(super) fn new(max_frame_size: u32) -> Self {
        Self {
            max_frame_size: max_frame_size as usize,
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
            if !frame.starts_with(b"AMQP") {
                check_frame(frame, &mut self.partial)?;
            }
            self.safe += size;
        }
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn check_frame(frame: &mut [u8], partial: &mut HashMap<(u16, u32), Partial>) -> io::Result<()> {
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
    match Transfer::read(performative) {
        Some(transfer) => {
            let transfer = transfer.ok_or_else(|| malformed("transfer"))?;
            check_payload((channel, transfer.handle), &transfer, payload, partial)
        }
        None => Ok(()),
    }
}

fn check_payload(
    link: (u16, u32),
    transfer: &Transfer,
    payload: &mut [u8],
    partial: &mut HashMap<(u16, u32), Partial>,
) -> io::Result<()> {
    let mut message = partial.remove(&link).unwrap_or_default();
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
    /// `None` if it is another performative, `Some(None)` if it is a transfer that cannot be read. The scanner
    /// has walked over it before.
    fn read(performative: &[u8]) -> Option<Option<Self>> {
        let (code, list) = match performative {
            [0x00, 0x53, code, list @ ..] => (u64::from(*code), list),
            [0x00, 0x80, rest @ ..] => {
                let (code, list) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*code), list)
            }
            _ => return None,
        };
        (code == TRANSFER).then(|| Self::read_fields(list))
    }

    fn read_fields(list: &[u8]) -> Option<Self> {
        let mut rest = match list {
            [0xc0, _, _, fields @ ..] => fields,
            [0xd0, fields @ ..] => fields.get(8..)?,
            _ => return None,
        };
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
            handle: match fields[0]? {
                [0x43] => 0,
                [0x52, handle] => u32::from(*handle),
                [0x70, handle @ ..] => u32::from_be_bytes(handle.try_into().ok()?),
                _ => return None,
            },
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

    fn through(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut guard = FrameGuard::new(65_536);
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
