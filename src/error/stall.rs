//! What the watchdog finds and what it does.

use std::fmt;

/// How deliveries fail to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StallReason {
    /// The receiver is attached and has never brought an event since it was opened.
    NeverStarted,
    /// The receiver is attached, has brought events, and brings no more.
    Stopped,
}

/// What is done about a partition whose deliveries have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StallRemedy {
    /// The receiver is opened again: a new link on a new session.
    Reopen,
    /// The receiver is opened again on a new connection.
    Reconnect,
    /// The partition is given back, and not claimed again by this processor for one and a half load-balancing intervals.
    Release,
}

impl fmt::Display for StallRemedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reopen => "the receiver is opened again",
            Self::Reconnect => "the receiver is opened again on a new connection",
            Self::Release => "the partition is given back",
        })
    }
}
