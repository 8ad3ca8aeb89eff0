//! The transport under the client library: pooled, bounded, and the place where requests are signed.
//!
//! The library's own opens a connection for each request and waits for answers without end.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core_legacy::headers::{HeaderName, HeaderValue, Headers as ForeignHeaders};
use azure_core_legacy::{Body, HttpClient, Request, Response, StatusCode, error::ErrorKind};
use bytes::{Bytes, BytesMut};
use url::Url;

use super::super::authorizer::{Authorizer, Headers, set};
use super::super::failure::{Class, Failure};
use super::super::requests::{CONNECT_TIMEOUT, MAX_ANSWER};
use super::super::route::Route;
use super::super::{BlobCheckpointStoreOptions, BlobStoreConfigError};
use crate::error::StoreErrorKind;

/// Connections kept open for the next requests: as many as the load balancer has writes under way.
const MAX_IDLE: usize = 32;

/// A pool of connections and the credential.
pub(super) struct PooledClient {
    http: reqwest_legacy::Client,
    route: Route,
    pub(super) authorizer: Authorizer,
    api_version: String,
}

impl PooledClient {
    pub(super) fn new(
        account_url: &Url,
        authorizer: Authorizer,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let route = Route::new(account_url, options)?;
        let mut http = reqwest_legacy::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(options.retry.try_timeout))
            .timeout(options.retry.try_timeout)
            .pool_max_idle_per_host(MAX_IDLE)
            // No credential reaches another host.
            .redirect(reqwest_legacy::redirect::Policy::none())
            // Which one to take is known already.
            .no_proxy()
            .use_preconfigured_tls(route.tls());
        if let Some(proxy) = &route.proxy {
            let mut through = reqwest_legacy::Proxy::all(proxy.url())?;
            if let Some(authorization) = proxy.header() {
                through = through.custom_http_auth(authorization);
            }
            http = http.proxy(through);
        }
        Ok(Self {
            http: http.build()?,
            route,
            authorizer,
            api_version: options.api_version.clone(),
        })
    }

    async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let mut url = request.url().clone();
        let mut headers: Headers = request
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str().to_ascii_lowercase(),
                    value.as_str().to_owned(),
                )
            })
            .collect();
        set(&mut headers, "x-ms-version", self.api_version.clone());
        // A checksum of a range, which nothing looks at and Azurite refuses.
        headers.retain(|(name, _)| name != "x-ms-range-get-content-crc64");
        let method = request.method().as_ref();
        self.authorizer
            .authorize(method, &mut url, &mut headers)
            .await?;

        let method = reqwest_legacy::Method::from_bytes(method.as_bytes()).map_err(invalid)?;
        let mut outgoing = self.http.request(method, url);
        for (name, value) in headers {
            outgoing = outgoing.header(name, value);
        }
        // The store sends no content, and hence no stream.
        if let Body::Bytes(bytes) = request.body() {
            outgoing = outgoing.body(bytes.clone());
        }
        let mut answer = match outgoing.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.unanswered(error).await),
        };
        let status = answer.status().as_u16();
        let header = |name| answer.headers().get(name)?.to_str().ok();
        if !answer.status().is_success()
            && let Some(of_proxy) = self.route.answered(status, header)
        {
            return Err(of_proxy);
        }
        self.authorizer.answered(status);
        if !answer.status().is_success() {
            return Err(Failure::answered(status, header, SystemTime::now()));
        }
        let mut headers = ForeignHeaders::new();
        for (name, value) in answer.headers() {
            // Not even foreign metadata has other characters.
            if let Ok(value) = value.to_str() {
                headers.insert(
                    HeaderName::from(name.as_str().to_owned()),
                    HeaderValue::from(value.to_owned()),
                );
            }
        }
        let mut body = BytesMut::new();
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(self.unanswered(error).await),
            };
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::new(
                    Class::Ambiguous,
                    StoreErrorKind::Unavailable,
                    format!("the answer is longer than {MAX_ANSWER} bytes"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            headers,
            body: body.freeze(),
        })
    }

    async fn unanswered(&self, error: reqwest_legacy::Error) -> Failure {
        // Its text has the URL, and with it a signature.
        let error = error.without_url();
        if let Some(obstacle) = self.route.obstacle(&error).await {
            return obstacle;
        }
        if error.is_connect() {
            return self.route.unsent(&error);
        }
        let mut failure = Failure::unanswered(&error);
        if error.is_timeout() {
            failure.kind = StoreErrorKind::Timeout;
        }
        failure
    }
}

struct Answer {
    status: u16,
    headers: ForeignHeaders,
    body: Bytes,
}

#[async_trait]
impl HttpClient for PooledClient {
    async fn execute_request(&self, request: &Request) -> azure_core_legacy::Result<Response> {
        let answer = self.send(request).await.map_err(to_foreign)?;
        let status = StatusCode::try_from(answer.status)
            .map_err(|_| to_foreign(Failure::incomplete("the answer has an unknown status")))?;
        let body = futures_util::stream::iter([Ok(answer.body)]);
        Ok(Response::new(status, answer.headers, Box::pin(body)))
    }
}

/// Shows nothing of the credential.
impl fmt::Debug for PooledClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledClient").finish_non_exhaustive()
    }
}

/// Carries a failure through the library. Not of the kind `Io`, which the library would retry and log.
fn to_foreign(failure: Failure) -> azure_core_legacy::Error {
    azure_core_legacy::Error::new(ErrorKind::Other, failure)
}

impl From<reqwest_legacy::Error> for BlobStoreConfigError {
    fn from(_: reqwest_legacy::Error) -> Self {
        Self::Client
    }
}

fn invalid(error: impl std::error::Error + 'static) -> Failure {
    Failure::unsent(&error)
}
