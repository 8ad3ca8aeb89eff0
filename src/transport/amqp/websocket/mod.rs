//! AMQP over a WebSocket: the bytes within binary frames are the stream.
//!
//! Frames are written and taken apart by tungstenite. What lies between them and the stream is here, because the library's
//! own layer of messages logs each one with its content, and the content of one is the token for `$cbs`; because a message
//! means nothing to AMQP, so that none has to be put together, and nothing has to be limited but a header and what
//! is owed to pings.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::network::{Head, authority};

use super::TARGET;
use super::endpoint::Way;
use super::stream::READ_BUFFER;

/// PROTOCOL: the path and the name that the service listens to. The standard's own name of AMQP, `amqp`, is not what the
/// other SDKs offer.
const PATH: &str = "/$servicebus/websocket";
const SUBPROTOCOL: &str = "AMQPWSB10";

/// Bytes that go into one frame of ours.
const MAX_PAYLOAD: usize = 64 * 1024;
/// Bytes taken and not yet sent; with more, the writer waits.
const MAX_UNSENT: usize = 64 * 1024;
/// PROTOCOL: the most that a control frame may carry (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the server answers HTTP {status}")]
    Refused { status: u16 },
    #[error("the server's answer has no valid `{header}`")]
    Invalid { header: &'static str },
}

/// Makes a connection a WebSocket.
pub(super) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    way: &Way,
) -> Result<WebSocket<S>, UpgradeError> {
    let key = generate_key();
    let host = authority(&way.host, way.port);
    // As every client does; a gateway may know the host by its bare name only.
    let default_port = if way.tls { ":443" } else { ":80" };
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let request = format!(
        "GET {PATH} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = Head::read(&mut stream).await?;
    check(&head, &key)?;
    Ok(WebSocket::new(stream))
}

/// PROTOCOL: RFC 6455, 4.1.
fn check(head: &Head, key: &str) -> Result<(), UpgradeError> {
    if head.status != 101 {
        let status = head.status;
        return Err(UpgradeError::Refused { status });
    }
    let accept = derive_accept_key(key.as_bytes());
    let has = |name, wanted: &str| {
        let mut words = head.header(name).unwrap_or_default().split(',');
        words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    for (header, is_valid) in [
        ("upgrade", has("upgrade", "websocket")),
        ("connection", has("connection", "upgrade")),
        (
            "sec-websocket-accept",
            head.header("sec-websocket-accept") == Some(&*accept),
        ),
        (
            "sec-websocket-protocol",
            has("sec-websocket-protocol", SUBPROTOCOL),
        ),
    ] {
        if !is_valid {
            return Err(UpgradeError::Invalid { header });
        }
    }
    Ok(())
}

/// The stream of bytes in the binary frames of a WebSocket.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    inner: BufReader<S>,
    reading: Reading,
    /// The header, or what a control frame carries, as far as it has come.
    pending: Vec<u8>,
    /// Whether the data frame before was not the last of its message.
    is_within: bool,
    /// What a ping carried that is still to be answered. Only the newest has to be (RFC 6455, 5.5.3).
    ping: Option<Bytes>,
    /// Frames for the peer.
    unsent: BytesMut,
    is_closed: bool,
}

/// What comes next from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Header,
    /// So many bytes of the stream.
    Data(u64),
    /// A control frame that carries so many bytes.
    Control(Control, usize),
    /// Nothing.
    Done,
}

impl<S> WebSocket<S> {
    fn new(stream: S) -> Self
    where
        S: AsyncRead,
    {
        Self {
            inner: BufReader::with_capacity(READ_BUFFER, stream),
            reading: Reading::Header,
            pending: Vec::new(),
            is_within: false,
            ping: None,
            unsent: BytesMut::new(),
            is_closed: false,
        }
    }

    /// What follows a header.
    ///
    /// PROTOCOL: RFC 6455, 5.1, 5.2, 5.4 and 5.5.
    fn after(&mut self, header: &FrameHeader, length: u64) -> io::Result<Reading> {
        if header.rsv1 || header.rsv2 || header.rsv3 || header.mask.is_some() {
            return Err(invalid("a WebSocket frame with reserved bits or a mask"));
        }
        match header.opcode {
            OpCode::Control(control) => match usize::try_from(length) {
                Ok(length @ ..=MAX_CONTROL) if header.is_final => {
                    Ok(Reading::Control(control, length))
                }
                _ => Err(invalid("a WebSocket control frame that is too long")),
            },
            OpCode::Data(Data::Binary) if !self.is_within => {
                self.is_within = !header.is_final;
                Ok(Reading::Data(length))
            }
            OpCode::Data(Data::Continue) if self.is_within => {
                self.is_within = !header.is_final;
                Ok(Reading::Data(length))
            }
            OpCode::Data(_) => Err(invalid("a WebSocket frame of text, or out of order")),
        }
    }

    /// What follows a control frame.
    fn control(&mut self, control: Control) -> Reading {
        match control {
            Control::Ping => self.ping = Some(Bytes::copy_from_slice(&self.pending)),
            Control::Close => {
                let code = self
                    .pending
                    .first_chunk()
                    .map(|code| u16::from_be_bytes(*code));
                tracing::debug!(target: TARGET, code, "the peer closes the WebSocket");
                return Reading::Done;
            }
            Control::Pong | Control::Reserved(_) => {}
        }
        Reading::Header
    }

    /// Puts a frame behind those for the peer.
    fn push(&mut self, opcode: OpCode, payload: Bytes) -> io::Result<()> {
        let header = FrameHeader {
            opcode,
            // PROTOCOL: clients mask what they send (RFC 6455, 5.3), so that no proxy on the way takes it for HTTP.
            mask: Some(rand::random()),
            ..FrameHeader::default()
        };
        Frame::from_payload(header, payload)
            .format(&mut (&mut self.unsent).writer())
            .map_err(io::Error::other)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Reads on to the next bytes of the stream, answers pings on the way. What is there, or nothing at the end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            self.reading = match self.reading {
                Reading::Data(0) => Reading::Header,
                Reading::Data(left) => {
                    let there = ready!(Pin::new(&mut self.inner).poll_fill_buf(cx))?.len();
                    if there == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    let left = usize::try_from(left).unwrap_or(usize::MAX);
                    return Poll::Ready(Ok(there.min(left)));
                }
                Reading::Done => return Poll::Ready(Ok(0)),
                Reading::Control(control, length) if self.pending.len() == length => {
                    let next = self.control(control);
                    self.pending.clear();
                    if let Poll::Ready(sent) = self.poll_send(cx, 0) {
                        sent?;
                    }
                    next
                }
                Reading::Header => match FrameHeader::parse(&mut Cursor::new(&self.pending)) {
                    Ok(Some((header, length))) => {
                        self.pending.clear();
                        self.after(&header, length)?
                    }
                    Ok(None) => ready!(self.poll_byte(cx))?,
                    Err(_) => {
                        return Poll::Ready(Err(invalid("a WebSocket frame of no known kind")));
                    }
                },
                Reading::Control(..) => ready!(self.poll_byte(cx))?,
            };
        }
    }

    /// Adds a byte to what is pending. What comes next is as before, or nothing if the peer ends between two frames.
    fn poll_byte(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Reading>> {
        match ready!(Pin::new(&mut self.inner).poll_fill_buf(cx))?.first() {
            Some(byte) => self.pending.push(*byte),
            None if self.pending.is_empty() && self.reading == Reading::Header => {
                return Poll::Ready(Ok(Reading::Done));
            }
            None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
        Pin::new(&mut self.inner).consume(1);
        Poll::Ready(Ok(self.reading))
    }

    /// Sends until at most `left` bytes are left, and a pong if one is due.
    fn poll_send(&mut self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        // A peer that pings and does not read is owed no more than one.
        if self.unsent.len() <= MAX_UNSENT
            && !self.is_closed
            && let Some(ping) = self.ping.take()
        {
            self.push(OpCode::Control(Control::Pong), ping)?;
        }
        while self.unsent.len() > left {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let there = ready!(self.poll_data(cx))?.min(buf.remaining());
        let this = &mut *self;
        let bytes = ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
        buf.put_slice(&bytes[..there]);
        Pin::new(&mut this.inner).consume(there);
        if let Reading::Data(left) = &mut this.reading {
            *left -= there as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx, MAX_UNSENT))?;
        let payload = &buf[..buf.len().min(MAX_PAYLOAD)];
        self.push(OpCode::Data(Data::Binary), Bytes::copy_from_slice(payload))?;
        // What does not go out now goes with the flush.
        match self.poll_send(cx, 0) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(payload.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, 0))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closed {
            self.is_closed = true;
            let normal = u16::from(CloseCode::Normal).to_be_bytes();
            self.push(
                OpCode::Control(Control::Close),
                Bytes::copy_from_slice(&normal),
            )?;
        }
        ready!(self.poll_send(cx, 0))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(feature = "unstable-fuzz")]
pub(in super::super) mod fuzz;
#[cfg(test)]
mod tests;
