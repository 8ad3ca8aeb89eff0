//! Every frame in the log, for whoever asks for it: what it is called and how large it is, never what is in it.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Level;

use super::wire::performative::{ATTACH, DETACH, FLOW, Performative, TRANSFER};
use crate::telemetry::FRAMES;

/// Connections made by this process, to tell their frames apart.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Which way a frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Received,
    Sent,
}

/// Tells of the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameLog {
    connection: u64,
}

impl FrameLog {
    pub(super) fn new() -> Self {
        Self {
            connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Tells of a whole frame. One that cannot be read is told of by its size alone.
    pub(super) fn tell(&self, way: Way, frame: &[u8]) {
        if !tracing::enabled!(target: FRAMES, Level::TRACE) {
            return;
        }
        let body_at = frame.get(4).map_or(0, |offset| usize::from(*offset) * 4);
        let body = frame.get(body_at..).unwrap_or_default();
        let channel = frame
            .get(6..8)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let performative = Performative::read(body).ok();
        let payload = performative.map(|performative| body.len() - performative.len);
        tracing::trace!(
            target: FRAMES,
            connection = self.connection,
            ?way,
            channel,
            handle = performative.as_ref().and_then(handle),
            bytes = frame.len(),
            payload = payload.filter(|payload| *payload > 0),
            "{}",
            match performative {
                Some(performative) => name(performative.code),
                None if body.is_empty() => "heartbeat",
                None => "?",
            }
        );
    }
}

/// The link that a frame is about.
fn handle(performative: &Performative<'_>) -> Option<u32> {
    let index = match performative.code {
        ATTACH => 1,
        FLOW => 4,
        TRANSFER | DETACH => 0,
        _ => return None,
    };
    performative.uint(index).ok().flatten()
}

fn name(code: u64) -> &'static str {
    match code {
        0x10 => "open",
        0x11 => "begin",
        0x12 => "attach",
        0x13 => "flow",
        0x14 => "transfer",
        0x15 => "disposition",
        0x16 => "detach",
        0x17 => "end",
        0x18 => "close",
        0x40 => "sasl-mechanisms",
        0x41 => "sasl-init",
        0x42 => "sasl-challenge",
        0x43 => "sasl-response",
        0x44 => "sasl-outcome",
        _ => "?",
    }
}
