//! The byte stream under AMQP, whatever it goes over, with a guard that lets nothing hang.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::TARGET;
use super::guard::FrameGuard;

/// Bytes that are read at once: some sixty events of a kilobyte.
pub(super) const READ_BUFFER: usize = 64 * 1024;

/// Reads in a row that bring nothing for the library. Then it gets its turn to write: the flows that ask for more
/// events are its own.
const MAX_READS: u32 = 8;

/// Frames that were taken from the library and not yet by the peer. With more, the library waits.
const MAX_UNSENT: usize = 64 * 1024;

/// Silence that the library is spared, in parts of the idle timeout.
const REASSURE: u32 = 4;

/// A connected stream, with or without TLS.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> ByteStream for S {}

/// A stream that fails instead of hanging.
///
/// - A write that makes no progress for `write_timeout` fails: a peer that stops reading would otherwise stall
///   the AMQP engine for good, and with it the idle timeout, which is checked between writes.
/// - After `kill` every operation fails, so that an engine waiting for a peer that never answers ends.
/// - `dead` is cancelled when the stream is dropped, that is when the engine has ended, whatever ended it.
/// - Frames pass a [`FrameGuard`] before the AMQP engine sees them, and before the peer sees those of the engine.
pub(super) struct Guarded<S> {
    inner: S,
    frames: FrameGuard,
    /// Frames for the peer.
    unsent: BytesMut,
    is_at_end: bool,
    /// When the library was last given something.
    given_at: Instant,
    write_timeout: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
    _dead: DropGuard,
}

impl<S> Guarded<S> {
    pub(super) fn new(
        inner: S,
        frames: FrameGuard,
        write_timeout: Duration,
        kill: CancellationToken,
        dead: CancellationToken,
    ) -> Self {
        Self {
            inner,
            frames,
            unsent: BytesMut::new(),
            is_at_end: false,
            given_at: Instant::now(),
            write_timeout,
            stuck: None,
            kill: Box::pin(kill.cancelled_owned()),
            _dead: dead.drop_guard(),
        }
    }

    fn poll_killed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.kill
            .as_mut()
            .poll(cx)
            .map(|()| io::Error::new(io::ErrorKind::ConnectionAborted, "given up"))
    }

    /// Turns a write that is stuck for too long into an error.
    fn poll_unstuck<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stuck = None;
            return progress;
        }
        let timeout = self.write_timeout;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer does not read",
        )))
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Sends frames until at most `left` bytes of them are left.
    fn poll_send(&mut self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        while self.unsent.len() > left {
            let write = Pin::new(&mut self.inner).poll_write(cx, &self.unsent);
            match ready!(self.poll_unstuck(cx, write))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut reads = 0;
        loop {
            let given = this
                .frames
                .give(buf.remaining(), |bytes| buf.put_slice(bytes));
            if given > 0 || this.is_at_end || buf.remaining() == 0 {
                this.given_at = Instant::now();
                return Poll::Ready(Ok(()));
            }
            if reads == MAX_READS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match poll_read_buf(Pin::new(&mut this.inner), cx, this.frames.room()) {
                Poll::Ready(Ok(0)) => this.is_at_end = true,
                Poll::Ready(Ok(_)) => {
                    reads += 1;
                    if let Err(error) = this.frames.check() {
                        // The library tells nobody why a stream failed.
                        tracing::warn!(target: TARGET, %error, "the peer broke the protocol");
                        return Poll::Ready(Err(error));
                    }
                    if this.given_at.elapsed() >= this.write_timeout / REASSURE {
                        this.frames.reassure();
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return this.poll_killed(cx).map(Err),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(error) = this.poll_killed(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(this.poll_send(cx, MAX_UNSENT))?;
        this.frames.send(buf, &mut this.unsent)?;
        // What does not go out now goes with the flush.
        match this.poll_send(cx, 0) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_killed(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_send(cx, 0))?;
        let flush = Pin::new(&mut self.inner).poll_flush(cx);
        self.poll_unstuck(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_killed(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_send(cx, 0))?;
        let shutdown = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.poll_unstuck(cx, shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::transport::amqp::events::Links;

    /// Frames without a body.
    const FRAMES: [u8; 64] = {
        let mut bytes = [0; 64];
        let mut at = 0;
        while at < 64 {
            bytes[at + 3] = 8;
            bytes[at + 4] = 2;
            at += 8;
        }
        bytes
    };

    fn guarded<S>(inner: S) -> (Guarded<S>, CancellationToken, CancellationToken) {
        let (kill, dead) = (CancellationToken::new(), CancellationToken::new());
        let timeout = Duration::from_secs(20);
        let stream = Guarded::new(
            inner,
            FrameGuard::new(512, 1024, 1, Links::default()),
            timeout,
            kill.clone(),
            dead.clone(),
        );
        (stream, kill, dead)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_to_a_peer_that_does_not_read_fails_in_time() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut stream, _kill, _dead) = guarded(ours);
        let started = Instant::now();
        let sending = async {
            stream.write_all(&FRAMES).await?;
            stream.flush().await
        };
        let error = timeout(Duration::from_secs(60), sending)
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_is_not_a_dead_one() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut stream, _kill, _dead) = guarded(ours);
        let reader = tokio::spawn(async move {
            let mut buf = [0; 1];
            for _ in 0..64 {
                sleep(Duration::from_secs(10)).await;
                theirs.read_exact(&mut buf).await.unwrap();
            }
        });
        stream.write_all(&FRAMES).await.unwrap();
        stream.flush().await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_ends_when_it_is_killed() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut stream, kill, dead) = guarded(ours);
        let read = tokio::spawn(async move { stream.read_u8().await });
        sleep(Duration::from_secs(5)).await;
        assert!(!dead.is_cancelled());
        kill.cancel();
        let error = read.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(dead.is_cancelled());
    }
}
