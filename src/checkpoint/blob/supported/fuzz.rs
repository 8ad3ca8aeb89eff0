//! An account that has one answer, for the fuzz targets.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};
use url::Url;

use super::super::route::Route;
use super::http::BoundedClient;
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError, Client};
use crate::credential::StorageCredential;

#[derive(Debug)]
struct Canned(Vec<u8>);

#[async_trait]
impl HttpClient for Canned {
    async fn execute_request(&self, _: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut headers = Headers::new();
        headers.insert("date", "Mon, 24 Nov 2025 10:00:00 GMT");
        let body = self.0.clone();
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, headers, body))
    }
}

/// A container of which every request is answered with `data`.
pub(in super::super) fn client(
    account_url: &Url,
    options: &BlobCheckpointStoreOptions,
    data: &[u8],
) -> Result<Client, BlobStoreConfigError> {
    let credential = StorageCredential::shared_access_signature("sig=x");
    let route = Route::new(account_url, options)?;
    let http = BoundedClient::over(Arc::new(Canned(data.to_vec())), route);
    Client::over(account_url, "container", credential, options, http)
}
