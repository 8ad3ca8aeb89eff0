//! Signs requests with an account key, which the client library does not do itself.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};

use super::super::shared_key::SharedKey;

/// Last policy before the transport: dates and signs every try anew.
#[derive(Debug)]
pub(super) struct SharedKeyPolicy(pub(super) SharedKey);

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait elides it, and async_trait tells the two spellings apart"
)]
#[async_trait]
impl Policy for SharedKeyPolicy {
    async fn send(
        &self,
        ctx: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let date = httpdate::fmt_http_date(SystemTime::now());
        request.insert_header("x-ms-date", date);
        let headers = request.headers().iter();
        let authorization = self.0.authorization(
            request.method().as_str(),
            headers.map(|(name, value)| (name.as_str(), value.as_str())),
            request.url(),
        );
        request.insert_header("authorization", authorization);
        let (next, rest) = next.split_first().ok_or_else(|| {
            azure_core::Error::with_message(
                azure_core::error::ErrorKind::Other,
                "the signing policy must not be the last one",
            )
        })?;
        next.send(ctx, request, rest).await
    }
}
