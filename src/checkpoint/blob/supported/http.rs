//! The transport under the client library: bounds what an answer may cost and what an error may show.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::{AsyncRawResponse, HttpClient, HttpClientOptions, Request, new_http_client};
use bytes::BytesMut;
use futures_util::StreamExt as _;

use super::super::failure::describe;
use super::super::requests::MAX_ANSWER;

/// The pooled default client, with its answers read to the end and limited in size.
///
/// It follows no redirect (the default client is built so), hence no credential reaches another host.
#[derive(Debug)]
pub(super) struct BoundedClient {
    inner: Arc<dyn HttpClient>,
}

impl BoundedClient {
    pub(super) fn new() -> Self {
        Self {
            inner: new_http_client(Some(HttpClientOptions {
                // A small compressed answer could unpack to any size.
                automatic_decompression: false,
            })),
        }
    }

    /// The same bounds over another client.
    #[cfg(feature = "unstable-fuzz")]
    pub(super) fn over(inner: Arc<dyn HttpClient>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl HttpClient for BoundedClient {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let response = self
            .inner
            .execute_request(request)
            .await
            .map_err(|error| scrub(&error))?;
        let (status, headers, mut stream) = response.deconstruct();
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| scrub(&error))?;
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(azure_core::Error::with_message(
                    ErrorKind::DataConversion,
                    format!("the answer is longer than {MAX_ANSWER} bytes"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(AsyncRawResponse::from_bytes(status, headers, body.freeze()))
    }
}

/// The HTTP client's errors print the URL of the request, and with it a shared access signature. The library
/// logs errors, so the text has to go before it sees them.
fn scrub(error: &azure_core::Error) -> azure_core::Error {
    let text = describe(error);
    azure_core::Error::with_message(error.kind().clone(), text)
}
