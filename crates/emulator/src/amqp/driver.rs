//! The task of one connection: moves bytes between a socket and the protocol.

use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::limits::WRITE_STALL;
use super::signal::Signal;

/// Room made for one read.
const READ_ROOM: usize = 32 * 1024;
/// Signals taken at once.
const SIGNALS: usize = 64;

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
    mut frozen: watch::Receiver<bool>,
) -> (IO, Exit)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut input = BytesMut::with_capacity(READ_ROOM);
    let mut inbox = Vec::with_capacity(SIGNALS);
    let mut last_progress = Instant::now();
    let exit = loop {
        connection.pump();
        if connection.is_finished() {
            break Exit::Closed;
        }
        let is_frozen = *frozen.borrow_and_update();
        let wants_input = connection.wants_input() && !is_frozen;
        let has_output = connection.has_output() && !is_frozen;
        if !has_output {
            last_progress = Instant::now();
        }
        let stalled_at = connection
            .write_stall()
            .filter(|_| has_output)
            .map(|limit| last_progress + limit);
        let deadline = [connection.deadline(), stalled_at]
            .into_iter()
            .flatten()
            .min();
        // CANCEL: reads and writes that lose the race have moved no byte.
        tokio::select! {
            read = read_some(&mut reader, &mut input), if wants_input => match read {
                Ok(0) => break Exit::Eof,
                Ok(_) => connection.on_bytes(&mut input, Instant::now()),
                Err(error) => break Exit::Io(error),
            },
            written = writer.write_buf(connection.output()), if has_output => match written {
                Ok(_) => {
                    last_progress = Instant::now();
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
            changed = frozen.changed() => if changed.is_err() {
                break Exit::Cut;
            },
        }
    };
    if let Exit::Closed = exit {
        // The peer may have gone first; there is nobody left to tell.
        let _ = writer.shutdown().await;
    }
    // Links free their partitions before the peer can notice the end.
    drop(connection);
    (reader.unsplit(writer), exit)
}

async fn read_some<R>(reader: &mut R, input: &mut BytesMut) -> io::Result<usize>
where
    R: AsyncRead + Unpin + Send,
{
    input.reserve(READ_ROOM);
    reader.read_buf(input).await
}
