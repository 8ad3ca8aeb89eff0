//! The fuzz targets of transports.

pub(crate) use super::amqp::fuzz::{events, message, selector, sent, stream};
