//! AMQP over WebSockets: binary messages as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::fault_rules::Effect;
use super::service::{Service, WebSocketOrder, WebSocketOrders};

/// PROTOCOL: .NET and Rust put a slash at the end.
const PATH: &str = "/$servicebus/websocket";
const SUBPROTOCOL: &str = "AMQPWSB10";
/// SDKs send a frame of at most 64 KiB per message, or a few together.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Read and written at once; one per connection lives as long as it does.
const BUFFER: usize = 32 * 1024;

/// A WebSocket as the protocol sees it.
#[derive(Debug)]
pub(crate) struct ByteStream<S> {
    inner: WebSocketStream<S>,
    unread: Bytes,
    service: Arc<Service>,
    orders: (WebSocketOrders, UnboundedReceiver<WebSocketOrder>),
    /// Pings a fault still wants to be sent.
    pings: u32,
}

/// Takes the upgrade of a client, or refuses it.
pub(crate) async fn accept<S>(stream: S, service: &Arc<Service>) -> Result<ByteStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    #[allow(
        clippy::result_large_err,
        reason = "the library's callback has this form"
    )]
    let judge = |request: &Request, response| match refused(service) {
        Some(status) => Err(refusal(status, "refused by a fault")),
        None => check(request, response),
    };
    let inner =
        tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(config)).await?;
    Ok(ByteStream {
        inner,
        unread: Bytes::new(),
        service: Arc::clone(service),
        orders: unbounded_channel(),
        pings: 0,
    })
}

#[allow(
    clippy::result_large_err,
    reason = "the library's callback has this form"
)]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let path = request.uri().path();
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.eq_ignore_ascii_case(PATH) {
        return Err(refusal(StatusCode::NOT_FOUND, "not a path for AMQP"));
    }
    let is_offered = request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(SUBPROTOCOL));
    if !is_offered {
        return Err(refusal(StatusCode::BAD_REQUEST, "AMQPWSB10 is not offered"));
    }
    response.headers_mut().insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    Ok(response)
}

/// The status with which a fault refuses an upgrade.
fn refused(service: &Service) -> Option<StatusCode> {
    let status = service.faults.take(None, None, |effect| match effect {
        Effect::RefuseUpgrade(status) => Some(*status),
        _ => None,
    })?;
    Some(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN))
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    response
}

impl<S> ByteStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn get_ref(&self) -> &S {
        self.inner.get_ref()
    }

    /// Where faults send what they want of it.
    pub(crate) fn orders(&self) -> WebSocketOrders {
        UnboundedSender::clone(&self.orders.0)
    }

    /// Does what faults want, as far as the socket takes it.
    fn carry_out(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut is_changed = false;
        while let Poll::Ready(Some(order)) = self.orders.1.poll_recv(cx) {
            match order {
                WebSocketOrder::Close { code, reason } => {
                    let frame = CloseFrame {
                        code: code.into(),
                        reason: reason.into(),
                    };
                    let message = Message::Close(Some(frame));
                    Pin::new(&mut self.inner).start_send(message)?;
                    is_changed = true;
                }
                WebSocketOrder::Ping { count } => self.pings = self.pings.saturating_add(count),
            }
        }
        while self.pings > 0 && Pin::new(&mut self.inner).poll_ready(cx)?.is_ready() {
            let payload = Bytes::copy_from_slice(&self.pings.to_be_bytes());
            Pin::new(&mut self.inner).start_send(Message::Ping(payload))?;
            self.pings -= 1;
            is_changed = true;
        }
        if is_changed {
            // What the socket does not take now goes with the next write or read.
            let _ = Pin::new(&mut self.inner).poll_flush(cx)?;
        }
        Ok(())
    }

    /// Sends a message in pieces, with a ping between each two of them.
    fn send_fragments(&mut self, bytes: &[u8], size: usize) -> Result<(), Error> {
        let pieces = bytes.chunks(size.max(1));
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.enumerate() {
            let kind = match index {
                0 => Data::Binary,
                _ => Data::Continue,
            };
            let piece = Bytes::copy_from_slice(piece);
            let frame = Frame::message(piece, OpCode::Data(kind), index == last);
            Pin::new(&mut self.inner).start_send(Message::Frame(frame))?;
            if index < last {
                Pin::new(&mut self.inner).start_send(Message::Ping(Bytes::new()))?;
            }
        }
        Ok(())
    }
}

impl<S> AsyncRead for ByteStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.carry_out(cx).map_err(io_error)?;
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                // The library answers a ping when it is polled again.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    let text = "a text message on a connection for AMQP";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let count = self.unread.len().min(buf.remaining());
        if let Some(bytes) = self.unread.get(..count) {
            buf.put_slice(bytes);
        }
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for ByteStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes a message; it may need a flush to leave.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(io_error)?;
        let bytes = buf.get(..BUFFER).unwrap_or(buf);
        let fragment = self.service.faults.take(None, None, |effect| match effect {
            Effect::FragmentMessages(size) => Some(*size),
            _ => None,
        });
        if let Some(size) = fragment {
            self.send_fragments(bytes, size).map_err(io_error)?;
            return Poll::Ready(Ok(bytes.len()));
        }
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.inner)
            .start_send(message)
            .map_err(io_error)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
