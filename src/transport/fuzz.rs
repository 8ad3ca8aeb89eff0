//! The fuzz targets of transports.

pub(crate) use super::amqp::fuzz::{message, selector, stream};
