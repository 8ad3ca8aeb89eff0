//! The task of one connection: moves bytes between a socket and the protocol.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::Connection;
use super::limits::{CLOSE_GRACE, WRITE_STALL};
use super::output::Output;
use super::signal::Signal;

/// Room made for one read.
const READ_ROOM: usize = 32 * 1024;
/// Signals taken at once.
const SIGNALS: usize = 64;

/// How fast connections go, by faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Nothing is read or written.
    pub(crate) is_frozen: bool,
    /// Nobody listens: connections are refused.
    pub(crate) is_down: bool,
    /// Output waits this long.
    pub(crate) delay: Duration,
}

/// How a connection ended.
#[derive(Debug, Error)]
pub(crate) enum Exit {
    #[error("closed by both sides")]
    Closed,
    #[error("cut on purpose")]
    Cut,
    #[error("the peer went away without a close")]
    Eof,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the peer took nothing for {WRITE_STALL:?}")]
    Stalled,
}

/// Runs a connection to its end and gives the socket back.
pub(crate) async fn run<IO>(
    io: IO,
    mut connection: Connection,
    mut signals: UnboundedReceiver<Signal>,
    mut pace: watch::Receiver<Pace>,
) -> (IO, Exit)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut input = BytesMut::with_capacity(READ_ROOM);
    let mut inbox = Vec::with_capacity(SIGNALS);
    let mut last_progress = Instant::now();
    let mut held_until = None;
    let mut allowance = None;
    let mut needs_flush = false;
    let exit = loop {
        connection.pump();
        if connection.is_cut() {
            break Exit::Cut;
        }
        if connection.is_finished() && !needs_flush {
            break Exit::Closed;
        }
        let Pace {
            is_frozen, delay, ..
        } = *pace.borrow_and_update();
        let delay = delay.max(connection.output_delay());
        let is_held = held(&mut held_until, delay, connection.has_output());
        let wants_input = connection.wants_input() && !is_frozen;
        let has_output = connection.has_output() && !is_frozen && !is_held;
        let is_flushing = needs_flush && !has_output && !is_frozen;
        if !has_output && !is_flushing {
            last_progress = Instant::now();
        }
        if has_output && allowance.is_none() {
            allowance = connection.reset_after();
        }
        if allowance == Some(0) {
            break Exit::Cut;
        }
        let stalled_at = connection
            .write_stall()
            .filter(|_| has_output || is_flushing)
            .map(|limit| last_progress + limit);
        let deadline = [
            connection.deadline(),
            stalled_at,
            held_until.filter(|_| is_held),
        ]
        .into_iter()
        .flatten()
        .min();
        let output = has_output.then(|| connection.output());
        // CANCEL: reads and writes that lose the race have moved no byte.
        tokio::select! {
            read = read_some(&mut reader, &mut input), if wants_input => match read {
                Ok(0) => break Exit::Eof,
                Ok(_) => connection.on_bytes(&mut input, Instant::now()),
                Err(error) => break Exit::Io(error),
            },
            moved = write_or_flush(&mut writer, output, allowance), if has_output || is_flushing => match moved {
                Ok(None) => needs_flush = false,
                Ok(Some(count)) => {
                    last_progress = Instant::now();
                    allowance = allowance.map(|left: usize| left.saturating_sub(count));
                    needs_flush = true;
                    connection.note_written(last_progress);
                }
                Err(error) => break Exit::Io(error),
            },
            count = signals.recv_many(&mut inbox, SIGNALS) => {
                let now = Instant::now();
                let is_cut = count == 0 || inbox.iter().any(|s| matches!(s, Signal::Cut));
                if is_cut {
                    break Exit::Cut;
                }
                for signal in inbox.drain(..) {
                    connection.on_signal(signal, now);
                }
            },
            () = sleep_until(deadline.unwrap_or(last_progress)), if deadline.is_some() && !is_frozen => {
                let now = Instant::now();
                if stalled_at.is_some_and(|at| at <= now) {
                    break Exit::Stalled;
                }
                connection.on_timer(now);
            },
            changed = pace.changed() => if changed.is_err() {
                break Exit::Cut;
            },
        }
    };
    if let Exit::Closed = exit {
        // The peer may have gone first; there is nobody left to tell.
        let _ = timeout(CLOSE_GRACE, writer.shutdown()).await;
    }
    // Links free their partitions before the peer can notice the end.
    drop(connection);
    (reader.unsplit(writer), exit)
}

/// Whether output has to wait. The first byte of it starts the delay, and all that has come
/// meanwhile leaves with it.
fn held(until: &mut Option<Instant>, delay: Duration, has_output: bool) -> bool {
    let now = Instant::now();
    if !has_output || delay.is_zero() {
        *until = None;
        return false;
    }
    // Once the time has come it stays in the past until everything is written.
    *until.get_or_insert(now + delay) > now
}

/// Writes some output, and no more than a fault allows, and tells how much; without output it
/// flushes, because TLS and WebSockets keep back what the socket did not take.
async fn write_or_flush<W>(
    writer: &mut W,
    output: Option<&mut Output>,
    allowance: Option<usize>,
) -> io::Result<Option<usize>>
where
    W: AsyncWrite + Unpin + Send,
{
    match (output, allowance) {
        (Some(output), Some(most)) => writer.write_buf(&mut output.take(most)).await.map(Some),
        (Some(output), None) => writer.write_buf(output).await.map(Some),
        (None, _) => writer.flush().await.map(|()| None),
    }
}

async fn read_some<R>(reader: &mut R, input: &mut BytesMut) -> io::Result<usize>
where
    R: AsyncRead + Unpin + Send,
{
    input.reserve(READ_ROOM);
    reader.read_buf(input).await
}
