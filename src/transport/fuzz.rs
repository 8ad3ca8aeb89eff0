//! The fuzz targets of transports.

pub(crate) use super::amqp::fuzz::{events, frames, message, selector, sent, stream, upgrade};
