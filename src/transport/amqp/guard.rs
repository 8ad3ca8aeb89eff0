//! Looks at every frame before the AMQP library does: malformed frames end the connection, poisonous messages
//! are made undecodable for the one link they are meant for, and the peer's idle timeout is read the cautious
//! way.

use std::collections::HashMap;
use std::io;

use bytes::{Buf as _, BytesMut};

use super::events::{Diverted, Links, Sessions};
use super::frames::{FrameLog, Way};
use super::scan::Scanner;
use super::stream::READ_BUFFER;
use super::wire::Malformed;
use super::wire::performative::{OPEN, Performative, TRANSFER, Transfer, with_uints};

/// Messages that may be incomplete at once. More than a session per partition of the largest hubs.
const MAX_PARTIAL: usize = 4096;

/// PROTOCOL: no AMQP value begins with this byte, so a decoder that meets it stops.
const POISON: u8 = 0xff;

/// Index of `idle-time-out` among the fields of an open.
const IDLE_TIME_OUT: usize = 4;

/// PROTOCOL: a frame without a body says that somebody is there.
const HEARTBEAT: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];

/// Room that is worth a read.
const MIN_READ: usize = 16 * 1024;

/// Takes bytes as they come from the peer and gives out whole frames that are safe to decode. Events go another way.
#[derive(Debug)]
pub(super) struct FrameGuard {
    max_frame_size: usize,
    /// Most bytes that a value may claim.
    max_message_size: u64,
    /// Longest pause between two frames of ours, in milliseconds.
    heartbeat: u32,
    /// Bytes received and not looked at.
    received: BytesMut,
    /// Counts the buffers that bytes were received in.
    buffer: u64,
    /// Frames for the library.
    safe: BytesMut,
    /// Messages of which not all frames have come, by channel and handle.
    partial: HashMap<(u16, u32), Partial>,
    sessions: Sessions,
    /// Whether the peer has sent anything since the library has last been given something.
    is_library_behind: bool,
    /// Bytes that the library has written and that are no whole frame yet.
    sending: BytesMut,
    log: FrameLog,
}

#[derive(Debug)]
struct Partial {
    scanner: Scanner,
    is_poisoned: bool,
}

/// The frame at the beginning of `bytes`.
enum Cut {
    /// Not all of it is there.
    Incomplete,
    /// PROTOCOL: between the layers come eight bytes that begin with the name; as a size it would be far beyond every
    /// limit.
    Name,
    /// Of this size.
    Frame(usize),
}

impl FrameGuard {
    /// A guard for frames and messages of at most so many bytes, and the event links of the connection. Heartbeats go
    /// out every `heartbeat` milliseconds or more often.
    pub(super) fn new(
        max_frame_size: u32,
        max_message_size: u64,
        heartbeat: u32,
        links: Links,
    ) -> Self {
        Self {
            max_frame_size: max_frame_size as usize,
            // Messages that fit into a frame are judged by the library, which has a better error for it.
            max_message_size: max_message_size.max(u64::from(max_frame_size)),
            heartbeat,
            received: BytesMut::new(),
            buffer: 0,
            safe: BytesMut::new(),
            partial: HashMap::new(),
            sessions: Sessions::new(links, max_message_size),
            is_library_behind: false,
            sending: BytesMut::new(),
            log: FrameLog::new(),
        }
    }

    /// Room for bytes from the peer.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        if self.received.capacity() - self.received.len() < MIN_READ {
            // Slices of the old buffer may live on, so this is a new one.
            self.received.reserve(READ_BUFFER);
            self.buffer += 1;
        }
        &mut self.received
    }

    /// Moves bytes that are safe into `out`, at most `max`; returns how many.
    pub(super) fn give(&mut self, max: usize, out: impl FnOnce(&[u8])) -> usize {
        let len = self.safe.len().min(max);
        out(&self.safe[..len]);
        self.safe.advance(len);
        self.is_library_behind &= len == 0;
        len
    }

    /// Lets the library know that the peer is there, if it has seen nothing of what came. It would end the connection
    /// for its silence.
    pub(super) fn reassure(&mut self) {
        if std::mem::take(&mut self.is_library_behind) {
            self.safe.extend_from_slice(&HEARTBEAT);
        }
    }

    /// Buffers that bytes were received in so far.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> u64 {
        self.buffer
    }

    /// Looks at what has come since the last time.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the peer does not keep to the format of frames, or sends events that it may not.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.sessions.note_buffer(self.buffer);
        let checked = self.check_frames();
        // What came before a violation is good.
        self.sessions.flush();
        checked
    }

    fn check_frames(&mut self) -> io::Result<()> {
        loop {
            match cut(&self.received, self.max_frame_size)? {
                Cut::Incomplete => return Ok(()),
                Cut::Name => {
                    let name = self.received.split_to(8);
                    self.safe.extend_from_slice(&name);
                }
                Cut::Frame(size) => {
                    let frame = self.received.split_to(size);
                    self.log.tell(Way::Received, &frame);
                    self.check_frame(frame)?;
                }
            }
        }
    }

    fn check_frame(&mut self, mut frame: BytesMut) -> io::Result<()> {
        let body_at = usize::from(frame[4]) * 4;
        // The other type of frame is that of SASL.
        let is_amqp = frame[5] == 0;
        let channel = u16::from_be_bytes([frame[6], frame[7]]);
        let body = frame
            .get(body_at..)
            .filter(|_| body_at >= 8)
            .ok_or_else(|| malformed("frame header"))?;
        if body.is_empty() {
            self.safe.extend_from_slice(&frame);
            return Ok(());
        }
        // PROTOCOL: every performative has a number, and a transfer alone has something behind it. The decoder takes
        // names and values without a descriptor as well, so that what is behind them would get past us.
        let performative = Performative::read(body).map_err(|_| malformed("performative"))?;
        let len = performative.len;
        if performative.code == TRANSFER && is_amqp {
            let transfer = Transfer::read(&performative).map_err(|_| malformed("transfer"))?;
            self.is_library_behind = true;
            let payload = || {
                let mut payload = std::mem::take(&mut frame);
                payload.advance(body_at + len);
                payload.freeze()
            };
            match self.sessions.divert(channel, &transfer, payload) {
                Diverted::Yes => return Ok(()),
                Diverted::Violation(what) => return Err(malformed(what)),
                Diverted::No => {}
            }
            let (performative, payload) = frame[body_at..].split_at_mut(len);
            check_performative(performative)?;
            self.check_payload((channel, transfer.handle), &transfer, payload)?;
            self.safe.extend_from_slice(&frame);
            return Ok(());
        }
        if len != body.len() {
            return Err(malformed("performative"));
        }
        check_performative(body)?;
        let performative = Performative::read(body).map_err(|_| malformed("performative"))?;
        self.sessions
            .received(channel, &performative)
            .map_err(|_| malformed("performative"))?;
        if performative.code == OPEN {
            let open = with_heartbeat(&frame[..body_at], &performative, self.heartbeat)
                .map_err(|_| malformed("open"))?;
            self.safe.extend_from_slice(&open);
        } else {
            self.safe.extend_from_slice(&frame);
        }
        Ok(())
    }

    fn check_payload(
        &mut self,
        link: (u16, u32),
        transfer: &Transfer,
        payload: &mut [u8],
    ) -> io::Result<()> {
        let mut message = self.partial.remove(&link).unwrap_or_else(|| Partial {
            scanner: Scanner::up_to(self.max_message_size),
            is_poisoned: false,
        });
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
        if transfer.more && !transfer.is_aborted {
            if self.partial.len() >= MAX_PARTIAL {
                return Err(malformed("too many incomplete messages"));
            }
            self.partial.insert(link, message);
        }
        Ok(())
    }

    /// Takes bytes that the library writes and gives to `out` what goes to the peer instead, frame by frame.
    ///
    /// # Errors
    ///
    /// `InvalidData` if they are no frames.
    pub(super) fn send(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<()> {
        self.sending.extend_from_slice(bytes);
        loop {
            match cut(&self.sending, usize::MAX)? {
                Cut::Incomplete => return Ok(()),
                Cut::Name => out.extend_from_slice(&self.sending.split_to(8)),
                Cut::Frame(size) => {
                    let frame = self.sending.split_to(size);
                    match self.sent(&frame) {
                        Ok(Some(instead)) => self.put(&instead, out),
                        Ok(None) => self.put(&frame, out),
                        Err(Malformed) => return Err(malformed("a frame of ours")),
                    }
                }
            }
        }
    }

    fn put(&self, frame: &[u8], out: &mut BytesMut) {
        self.log.tell(Way::Sent, frame);
        out.extend_from_slice(frame);
    }

    fn sent(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let channel = u16::from_be_bytes([frame[6], frame[7]]);
        let body_at = usize::from(frame[4]) * 4;
        let (header, body) = frame.split_at_checked(body_at).ok_or(Malformed)?;
        if body.is_empty() {
            return Ok(None);
        }
        self.sessions
            .sent(channel, header, &Performative::read(body)?)
    }
}

/// What is at the beginning of `bytes`.
fn cut(bytes: &[u8], max_frame_size: usize) -> io::Result<Cut> {
    let Some(size) = bytes.first_chunk().map(|size| u32::from_be_bytes(*size)) else {
        return Ok(Cut::Incomplete);
    };
    let (size, is_name) = match bytes.starts_with(b"AMQP") {
        true => (8, true),
        false => (size as usize, false),
    };
    if size < 8 || size > max_frame_size {
        return Err(malformed("frame size"));
    }
    Ok(match (bytes.len() >= size, is_name) {
        (false, _) => Cut::Incomplete,
        (true, true) => Cut::Name,
        (true, false) => Cut::Frame(size),
    })
}

/// An open frame that asks for heartbeats at half of the peer's idle timeout, or every `heartbeat` milliseconds
/// if that is more often.
///
/// PROTOCOL: the library (0.18.4, connection/heartbeat.rs) sends a heartbeat when the whole timeout has passed,
/// which is too late for a peer that means what it says; every SDK sends at half of it. The service has been
/// seen to close connections after the timeout that the *client* asked for
/// ("inactive for more than the allowed 60000 milliseconds"), so ours counts as well.
fn with_heartbeat(
    header: &[u8],
    open: &Performative<'_>,
    heartbeat: u32,
) -> Result<Vec<u8>, Malformed> {
    let theirs = open.uint(IDLE_TIME_OUT)?.filter(|millis| *millis > 0);
    let period = theirs.map_or(heartbeat, |millis| heartbeat.min(millis / 2).max(1));
    with_uints(header, open, &[(IDLE_TIME_OUT, period)])
}

/// Whether the library's decoder survives it.
fn check_performative(performative: &[u8]) -> io::Result<()> {
    let mut scanner = Scanner::default();
    match scanner.walk(performative, 1) {
        Ok(_) if scanner.finished() == 1 => Ok(()),
        _ => Err(malformed("performative")),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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
        let mut guard = FrameGuard::new(65_536, MAX_MESSAGE, 10_000, Links::default());
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
