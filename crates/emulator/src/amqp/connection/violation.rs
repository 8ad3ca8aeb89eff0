//! What a peer must not do.

use std::time::Duration;

use thiserror::Error;

use crate::amqp::codec::DecodeError;
use crate::amqp::codec::frame::FrameError;
use crate::amqp::limits;

/// What a peer did that ends its connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a protocol header that is not AMQP 1.0")]
    Header,
    #[error("no mechanism of that name")]
    Mechanism,
    #[error("no open within {0:?}")]
    OpenTimeout(Duration),
    #[error("a channel number above {max}", max = limits::CHANNEL_MAX)]
    Channel,
    #[error("unexpected here: {0}")]
    Unexpected(&'static str),
}
