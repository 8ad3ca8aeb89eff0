//! Settings of the network that cannot be used.

/// A proxy, a certificate or a key that cannot be used. Shows nothing of what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkOptionError {
    /// Not the address of an HTTP proxy.
    #[error("the proxy address is not valid: {reason}")]
    InvalidProxy {
        /// What was expected.
        reason: &'static str,
    },
    /// Not certificates of authorities.
    #[error("the CA certificates are not valid: {reason}")]
    InvalidCaCertificates {
        /// What was expected.
        reason: &'static str,
    },
    /// Not a client certificate with its key.
    #[error("the client certificate is not valid: {reason}")]
    InvalidClientCertificate {
        /// What was expected.
        reason: &'static str,
    },
}
