//! The fuzz targets of stores.

pub(crate) use super::blob::fuzz::{listing, records};
