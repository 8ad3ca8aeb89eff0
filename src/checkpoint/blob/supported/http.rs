//! The transport under the client library: bounds what an answer may cost and what an error may show.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::HeaderName;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use url::Url;

use super::super::failure::describe;
use super::super::requests::{CONNECT_TIMEOUT, MAX_ANSWER};
use super::super::route::Route;
use super::super::{BlobCheckpointStoreOptions, BlobStoreConfigError};

/// A pooled client, with its answers read to the end and limited in size.
#[derive(Debug)]
pub(super) struct BoundedClient {
    inner: Arc<dyn HttpClient>,
    route: Route,
}

impl BoundedClient {
    pub(super) fn new(
        account_url: &Url,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let route = Route::new(account_url, options)?;
        // A small compressed answer could unpack to any size; it is not asked for one.
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(options.retry.try_timeout))
            // No credential reaches another host.
            .redirect(reqwest::redirect::Policy::none())
            // Which one to take is known already.
            .no_proxy()
            .tls_backend_preconfigured(route.tls());
        if let Some(proxy) = &route.proxy {
            let mut through = reqwest::Proxy::all(proxy.url())?;
            if let Some(authorization) = proxy.header() {
                through = through.custom_http_auth(authorization);
            }
            http = http.proxy(through);
        }
        Ok(Self {
            inner: Arc::new(http.build()?),
            route,
        })
    }

    /// The same bounds over another client.
    #[cfg(feature = "unstable-fuzz")]
    pub(super) fn over(inner: Arc<dyn HttpClient>, route: Route) -> Self {
        Self { inner, route }
    }

    /// The HTTP client's errors print the URL of the request, and with it a shared access signature. The library
    /// logs errors, so the text has to go before it sees them.
    async fn told(&self, error: azure_core::Error) -> azure_core::Error {
        let unsent = matches!(error.kind(), ErrorKind::Connection);
        match self.route.obstacle(&error).await {
            Some(obstacle) => azure_core::Error::new(ErrorKind::Connection, obstacle),
            None if unsent => {
                azure_core::Error::new(ErrorKind::Connection, self.route.unsent(&error))
            }
            None => azure_core::Error::with_message(error.kind().clone(), describe(&error)),
        }
    }
}

impl From<reqwest::Error> for BlobStoreConfigError {
    fn from(_: reqwest::Error) -> Self {
        Self::Client
    }
}

#[async_trait]
impl HttpClient for BoundedClient {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let response = match self.inner.execute_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(self.told(error).await),
        };
        let (status, headers, mut stream) = response.deconstruct();
        if !status.is_success() {
            let header = |name| headers.get_optional_str(&HeaderName::from_static(name));
            if let Some(of_proxy) = self.route.answered(u16::from(status), header) {
                return Err(azure_core::Error::new(ErrorKind::Connection, of_proxy));
            }
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Err(self.told(error).await),
            };
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
