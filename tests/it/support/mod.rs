//! What several modules of tests need.

pub(crate) mod proxy;
pub(crate) mod tinyproxy;
pub(crate) mod tls_front;
#[cfg(feature = "azure-identity")]
pub(crate) mod token_issuer;
