//! Tokens from elsewhere, such as Microsoft Entra ID.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;

use super::Secret;
use crate::error::BoxError;

/// A bearer token and the time it stops being one.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub token: Secret,
    /// When it expires.
    pub expires_at: SystemTime,
}

/// Where tokens come from. Implement it over any identity library; the crate itself depends on none.
#[async_trait]
pub trait TokenCredential: fmt::Debug + Send + Sync + 'static {
    /// A token for `scope`: `https://eventhubs.azure.net//.default` for Event Hubs, `https://storage.azure.com/.default`
    /// for blobs. Called after 72 to 80 % of the life of the one before, at least 5 s apart, and given 30 s; caching is
    /// up to the implementation, which must not hand out a token of which less is left.
    ///
    /// # Errors
    ///
    /// Whatever kept the token from being issued. It counts as trouble that passes
    /// ([`CredentialUnavailable`](crate::error::TransportErrorKind::CredentialUnavailable)) and is tried again, unless
    /// it is an [`IssuerRefusal`].
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError>;
}

/// Says that the issuer knows the request for a token and refuses it, as it will refuse it again: a wrong secret, an
/// unknown application. Return it from [`TokenCredential::token`] so that a processor which cannot work does not start.
#[derive(Debug, thiserror::Error)]
#[error("the issuer refuses to give a token")]
pub struct IssuerRefusal(#[source] BoxError);

impl IssuerRefusal {
    /// The refusal behind which `source` stands.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}
