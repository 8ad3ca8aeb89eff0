//! Our token credential, as the client library wants it.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{
    AccessToken, TokenCredential as AzureCredential, TokenRequestOptions,
};
use azure_core::error::ErrorKind;

use crate::credential::TokenCredential;

/// Tokens for the storage service, whose scope the library passes in.
#[derive(Debug)]
pub(super) struct TokenAdapter(pub(super) Arc<dyn TokenCredential>);

#[async_trait]
impl AzureCredential for TokenAdapter {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let scope = scopes.first().copied().unwrap_or_default();
        let token = self.0.token(scope).await.map_err(|error| {
            azure_core::Error::with_error(
                ErrorKind::Credential,
                error,
                "no token for the storage account",
            )
        })?;
        Ok(AccessToken::new(
            token.token.expose().to_owned(),
            token.expires_at.into(),
        ))
    }
}
