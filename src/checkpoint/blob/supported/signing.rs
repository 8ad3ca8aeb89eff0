//! Puts credentials on requests, which the client library would do for tokens only, and without asking for a new one
//! that lives for less than five minutes ahead of its expiry.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};

use super::super::authorizer::{Authorizer, Headers};

/// Last policy before the transport: dates and authorizes every try anew.
#[derive(Debug)]
pub(super) struct AuthorizationPolicy(pub(super) Authorizer);

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait elides it, and async_trait tells the two spellings apart"
)]
#[async_trait]
impl Policy for AuthorizationPolicy {
    async fn send(
        &self,
        ctx: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let mut url = request.url().clone();
        let headers = request.headers().iter();
        let mut headers: Headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned()))
            .collect();
        let method = request.method();
        self.0
            .authorize(method.as_str(), &mut url, &mut headers)
            .await
            .map_err(|failure| azure_core::Error::new(ErrorKind::Credential, failure))?;
        *request.url_mut() = url;
        for (name, value) in headers {
            request.insert_header(name, value);
        }
        let (next, rest) = next.split_first().ok_or_else(|| {
            azure_core::Error::with_message(
                ErrorKind::Other,
                "the signing policy must not be the last one",
            )
        })?;
        let answer = next.send(ctx, request, rest).await?;
        self.0.answered(u16::from(answer.status()));
        Ok(answer)
    }
}
