//! What several modules of tests need.

pub(crate) mod proxy;
