//! The fuzz targets of what a server says on a WebSocket, next to a second reading of RFC 6455.

use futures_util::FutureExt as _;

use super::*;

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    /// Within a frame.
    Cut,
    /// By what the protocol does not allow.
    Broken,
}

/// Somebody who has all of this to send, in pieces, and reads what comes in pieces or not at all.
#[derive(Debug)]
struct Peer<'a> {
    left: &'a [u8],
    piece: usize,
    reads: bool,
    /// Takes something every other time.
    is_tired: bool,
    taken: Vec<u8>,
}

impl<'a> Peer<'a> {
    fn new(left: &'a [u8], piece: usize, reads: bool) -> Self {
        Self {
            left,
            piece,
            reads,
            is_tired: false,
            taken: Vec::new(),
        }
    }
}

impl AsyncRead for Peer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.left.len()).min(buf.remaining());
        let (now, later) = self.left.split_at(length);
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.reads || std::mem::replace(&mut self.is_tired, true) {
            self.is_tired = false;
            return Poll::Pending;
        }
        let length = self.piece.min(buf.len());
        self.taken.extend_from_slice(&buf[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames of a server: what comes out, and how it ends, is what a second reading says, however the stream is cut; what a
/// peer that does not read is owed stays small; one that reads gets its pongs. And bytes of ours, put into frames and
/// taken out again, are the same.
pub(crate) fn frames(data: &[u8]) {
    let (expected, end, pings) = model(data);
    let whole = data.len().max(1);
    let ways = match data.len() {
        ..4096 => &[
            (whole, 1000, true),
            (whole, 1, false),
            (1, 1000, true),
            (7, 3, true),
        ][..],
        _ => &[(whole, 100_000, true), (whole, 100_000, false)],
    };
    for &(piece, step, reads) in ways {
        let mut socket = WebSocket::new(Peer::new(data, piece, reads));
        let read = read(&mut socket, step);
        assert!(read == (expected.clone(), end), "{piece}, {step}: {read:?}");
        assert!(socket.pending.len() <= MAX_CONTROL);
        // The newest ping fits, whatever waits already.
        assert!(socket.unsent.len() <= MAX_UNSENT + MAX_CONTROL + 6);
        if reads {
            until_ready(|cx| Pin::new(&mut socket).poll_flush(cx));
            let pongs = sent(&socket.inner.get_ref().taken);
            let is_pong =
                |(first, payload): &(u8, Vec<u8>)| *first == 0x8a && pings.contains(payload);
            assert!(pongs.iter().all(is_pong), "{pongs:?}");
            assert_eq!(pongs.last().map(|(_, payload)| payload), pings.last());
        } else {
            assert!(socket.inner.get_ref().taken.is_empty());
        }
    }
    written(data);
}

/// Everything up to the end.
fn read(socket: &mut WebSocket<Peer<'_>>, step: usize) -> (Vec<u8>, End) {
    let mut out = Vec::new();
    let mut room = vec![0; step];
    loop {
        let mut buf = ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut *socket).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (out, End::Closed),
            Poll::Ready(Ok(())) => out.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => match error.kind() {
                io::ErrorKind::UnexpectedEof => return (out, End::Cut),
                io::ErrorKind::InvalidData => return (out, End::Broken),
                other => panic!("{other}"),
            },
            Poll::Pending => panic!("waits for a peer that has sent all"),
        }
    }
}

/// What is in the data frames, how it ends, and the pings on the way. RFC 6455, 5.
fn model(data: &[u8]) -> (Vec<u8>, End, Vec<Vec<u8>>) {
    let (mut out, mut pings) = (Vec::new(), Vec::new());
    let mut rest = data;
    let mut is_within = false;
    let end = loop {
        let (first, second) = match rest {
            [] => break End::Closed,
            [_] => break End::Cut,
            [first, second, ..] => (*first, *second),
        };
        let extra = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if rest.len() < 2 + extra + mask {
            break End::Cut;
        }
        let length = match extra {
            0 => u64::from(second & 0x7f),
            _ => rest[2..2 + extra]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        rest = &rest[2 + extra..];
        let (is_final, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
        if mask > 0 || reserved > 0 {
            break End::Broken;
        }
        let there = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        match opcode {
            0 | 2 if (opcode == 0) == is_within => {
                is_within = !is_final;
                out.extend_from_slice(&rest[..there]);
            }
            8..=10 if is_final && length <= 125 => {}
            _ => break End::Broken,
        }
        if (there as u64) < length {
            break End::Cut;
        }
        match opcode {
            8 => break End::Closed,
            9 => pings.push(rest[..there].to_vec()),
            _ => {}
        }
        rest = &rest[there..];
    };
    (out, end, pings)
}

/// The frames of a client: first byte and content.
fn sent(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert!(second & 0x80 != 0, "clients mask");
        let extra = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let length = match extra {
            0 => usize::from(second & 0x7f),
            _ => rest[..extra]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        };
        let (mask, rest) = rest[extra..].split_at(4);
        let (payload, rest) = rest.split_at(length);
        let payload = payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask);
        frames.push((*first, payload.collect()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

fn written(data: &[u8]) {
    let piece = 1 + data.first().map_or(0, |byte| usize::from(*byte) * 16);
    let mut socket = WebSocket::new(Peer::new(b"", piece, true));
    let mut left = data;
    while !left.is_empty() {
        let taken = until_ready(|cx| Pin::new(&mut socket).poll_write(cx, left));
        assert!(taken > 0 && socket.unsent.len() <= MAX_UNSENT + MAX_PAYLOAD + 14);
        left = &left[taken..];
    }
    until_ready(|cx| Pin::new(&mut socket).poll_shutdown(cx));
    let mut frames = sent(&socket.inner.get_ref().taken);
    assert_eq!(frames.pop(), Some((0x88, vec![0x03, 0xe8])));
    assert!(
        frames
            .iter()
            .all(|(first, payload)| *first == 0x82 && payload.len() <= MAX_PAYLOAD)
    );
    let out: Vec<u8> = frames
        .into_iter()
        .flat_map(|(_, payload)| payload)
        .collect();
    assert!(out == data);
}

fn until_ready<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> T {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(result) = poll(&mut cx) {
            return result.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// RFC 6455, 1.3: a key and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An answer to an upgrade that is taken says 101 and answers our key, and no other.
pub(crate) fn upgrade(data: &[u8]) {
    let mut rest = data;
    let Some(Ok(head)) = Head::read(&mut rest).now_or_never() else {
        return;
    };
    let has = |text: &[u8]| {
        data.windows(text.len())
            .any(|window| window.eq_ignore_ascii_case(text))
    };
    match check(&head, KEY) {
        Ok(()) => {
            assert_eq!(head.status, 101);
            assert!(has(ACCEPT) && has(b"websocket") && has(b"upgrade") && has(b"AMQPWSB10"));
            let other = check(&head, "AAAAAAAAAAAAAAAAAAAAAA==");
            assert!(matches!(
                other,
                Err(UpgradeError::Invalid {
                    header: "sec-websocket-accept"
                })
            ));
        }
        Err(UpgradeError::Refused { status }) => assert!(status == head.status && status != 101),
        Err(UpgradeError::Invalid { .. }) => assert_eq!(head.status, 101),
        Err(UpgradeError::Io(error)) => panic!("{error}"),
    }
}
