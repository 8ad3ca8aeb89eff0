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
    /// A token for `scope`, such as `https://eventhubs.azure.net//.default`. Called ahead of every expiry;
    /// caching is up to the implementation.
    ///
    /// # Errors
    ///
    /// Whatever kept the token from being issued. The caller tries again later.
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError>;
}
