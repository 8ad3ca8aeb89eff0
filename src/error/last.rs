//! Trouble in words.

use std::time::SystemTime;

/// Trouble that a status shows, in the words of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastError {
    /// The error with the errors behind it.
    pub message: String,
    /// When it was noticed, on this machine's clock.
    pub time: SystemTime,
}

impl LastError {
    /// For implementations of [`Transport`](crate::Transport) and [`CheckpointStore`](crate::CheckpointStore).
    pub fn new(message: impl Into<String>, time: SystemTime) -> Self {
        Self {
            message: message.into(),
            time,
        }
    }
}
