//! The container over `azure_storage_blobs` 0.21, the frozen client library (feature `legacy-storage`).

mod http;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core_legacy::headers::HeaderName;
use azure_core_legacy::request_options::IfMatchCondition;
use azure_core_legacy::{HttpClient as _, Method, Request, RetryOptions, TransportOptions};
use azure_storage::{CloudLocation, StorageCredentials};
use azure_storage_blobs::prelude::{BlobClient, ClientBuilder, ContainerClient};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use httpdate::parse_http_date;
use url::Url;

use self::http::PooledClient;
use super::authorizer::Authorizer;
use super::failure::Failure;
use super::metadata::Metadata;
use super::requests::{
    CONTENT_TYPE, ContainerRequests, MAX_CONTENT, Page, Record, quoted, unquoted,
};
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError};
use crate::checkpoint::Written;
use crate::credential::StorageCredential;
use crate::error::LastError;
use crate::model::ETag;

/// One container.
pub(super) struct Client {
    container: ContainerClient,
    /// Below the library.
    transport: Arc<PooledClient>,
}

impl Client {
    pub(super) fn new(
        account_url: &Url,
        container_name: &str,
        credential: StorageCredential,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let location = CloudLocation::Custom {
            // Names the account in what the library signs, which is nothing.
            account: String::new(),
            uri: account_url.as_str().trim_end_matches('/').to_owned(),
        };
        let mut container_url = account_url.clone();
        container_url
            .path_segments_mut()
            .map_err(|()| BlobStoreConfigError::Client)?
            .pop_if_empty()
            .push(container_name);
        let authorizer = Authorizer::new(credential, &container_url)?;
        let transport = Arc::new(PooledClient::new(account_url, authorizer, options)?);
        // The library logs its requests with the signature, so they are signed below it, by the transport.
        let builder = ClientBuilder::with_location(location, StorageCredentials::anonymous())
            .retry(RetryOptions::none())
            .transport(TransportOptions::new(Arc::<PooledClient>::clone(
                &transport,
            )));
        Ok(Self {
            container: builder.container_client(container_name),
            transport,
        })
    }

    fn blob(&self, name: &str) -> BlobClient {
        self.container.blob_client(name)
    }
}

#[async_trait]
impl ContainerRequests for Client {
    async fn create(&self, name: &str, metadata: &Metadata) -> Result<Written, Failure> {
        let request = self
            .blob(name)
            .put_block_blob(Bytes::new())
            .metadata(to_foreign(metadata))
            .if_match(IfMatchCondition::NotMatch("*".to_owned()));
        let answer = request.await?;
        written(&answer.etag, answer.last_modified.into())
    }

    /// Past the library, which logs what it sends.
    async fn put(&self, name: &str, content: &Bytes) -> Result<Written, Failure> {
        let mut request = Request::new(self.blob(name).url()?, Method::Put);
        request.insert_header("x-ms-blob-type", "BlockBlob");
        request.insert_header("content-type", CONTENT_TYPE);
        request.insert_header("content-length", content.len().to_string());
        request.set_body(content.clone());
        let answer = self.transport.execute_request(&request).await?;
        let header = |name| {
            let value = answer
                .headers()
                .get_optional_str(&HeaderName::from_static(name));
            value.ok_or_else(|| Failure::incomplete("the answer lacks a header"))
        };
        let last_modified = parse_http_date(header("last-modified")?)
            .map_err(|_| Failure::incomplete("the answer has no readable date"))?;
        written(header("etag")?, last_modified)
    }

    async fn set_metadata(
        &self,
        name: &str,
        metadata: &Metadata,
        version: Option<&ETag>,
    ) -> Result<Written, Failure> {
        let mut request = self
            .blob(name)
            .set_metadata()
            .metadata(to_foreign(metadata));
        if let Some(version) = version {
            request = request.if_match(IfMatchCondition::Match(quoted(version)));
        }
        let answer = request.await?;
        // The library leaves `Last-Modified` out. The answer is given within the second of the write.
        written(&answer.etag, answer.date.into())
    }

    async fn properties(&self, name: &str) -> Result<Record, Failure> {
        let blob = self.blob(name).get_properties().await?.blob;
        record(blob).ok_or_else(|| Failure::incomplete("the answer has no version tag"))
    }

    async fn content(&self, name: &str) -> Result<Bytes, Failure> {
        let range = 0..MAX_CONTENT as u64;
        let mut pages = self.blob(name).get().range(range).into_stream();
        let answer = pages.try_next().await?;
        let answer = answer.ok_or_else(|| Failure::incomplete("the blob has no content"))?;
        Ok(answer.data.collect().await?)
    }

    async fn page(&self, prefix: &str, marker: Option<&str>) -> Result<Page, Failure> {
        let mut request = self
            .container
            .list_blobs()
            .prefix(prefix.to_owned())
            .include_metadata(true);
        if let Some(marker) = marker {
            request = request.marker(marker.to_owned());
        }
        let answer = request.into_stream().try_next().await?;
        let answer = answer.ok_or_else(|| Failure::incomplete("the listing has no page"))?;
        let blobs = answer.blobs.blobs().cloned();
        Ok(Page {
            as_of: answer.date.into(),
            records: blobs.filter_map(record).collect(),
            next_marker: answer.next_marker.map(|marker| marker.as_str().to_owned()),
        })
    }

    fn credential_error(&self) -> Option<LastError> {
        self.transport.authorizer.trouble()
    }
}

/// What the transport found out comes back as it was; the library only adds texts around it.
impl From<azure_core_legacy::Error> for Failure {
    fn from(error: azure_core_legacy::Error) -> Self {
        if let Some(failure) = Self::behind(&error) {
            return failure;
        }
        // An answer that the library cannot read.
        Self::unanswered(&error)
    }
}

fn to_foreign(metadata: &Metadata) -> azure_core_legacy::request_options::Metadata {
    let mut foreign = azure_core_legacy::request_options::Metadata::new();
    for (key, value) in metadata {
        foreign.insert(key.clone(), value.clone());
    }
    foreign
}

fn record(blob: azure_storage_blobs::prelude::Blob) -> Option<Record> {
    Some(Record {
        etag: unquoted(blob.properties.etag.as_ref())?,
        name: blob.name,
        metadata: blob.metadata.unwrap_or_default(),
        last_modified: Some(SystemTime::from(blob.properties.last_modified)),
    })
}

fn written(etag: &str, last_modified: SystemTime) -> Result<Written, Failure> {
    let etag =
        unquoted(etag).ok_or_else(|| Failure::incomplete("the answer has no version tag"))?;
    Ok(Written {
        etag,
        last_modified: Some(last_modified),
    })
}
