//! The container over `azure_storage_blob` 1.x, the supported client library.

#[cfg(feature = "unstable-fuzz")]
pub(super) mod fuzz;
mod http;
mod signing;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{
    ClientOptions, Etag, RequestContent, RetryOptions, Transport, UserAgentOptions,
};
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientSetMetadataOptions, BlobContainerClientListBlobsOptions,
    BlockBlobClientUploadOptions, HttpRange, ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use url::Url;

use self::http::BoundedClient;
use self::signing::AuthorizationPolicy;
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

const ETAG: HeaderName = HeaderName::from_static("etag");
const DATE: HeaderName = HeaderName::from_static("date");
const LAST_MODIFIED: HeaderName = HeaderName::from_static("last-modified");
const METADATA_PREFIX: &str = "x-ms-meta-";

/// One container.
pub(super) struct Client {
    container: BlobContainerClient,
    authorization: Arc<AuthorizationPolicy>,
}

impl Client {
    pub(super) fn new(
        account_url: &Url,
        container_name: &str,
        credential: StorageCredential,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let http = BoundedClient::new(account_url, options)?;
        Self::over(account_url, container_name, credential, options, http)
    }

    /// As [`new`](Self::new), over a given HTTP client.
    fn over(
        account_url: &Url,
        container_name: &str,
        credential: StorageCredential,
        options: &BlobCheckpointStoreOptions,
        http: BoundedClient,
    ) -> Result<Self, BlobStoreConfigError> {
        let mut url = account_url.clone();
        url.path_segments_mut()
            .map_err(|()| BlobStoreConfigError::Client)?
            .pop_if_empty()
            .push(container_name);
        let mut client_options = ClientOptions {
            // Retries are the container's: it knows which of them may hide a write that took effect.
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(http))),
            user_agent: UserAgentOptions {
                application_id: Some("eventhubs-processor".to_owned()),
            },
            ..ClientOptions::default()
        };
        let authorizer = Authorizer::new(credential, &url)?;
        let authorization = Arc::new(AuthorizationPolicy(authorizer));
        let policy = Arc::<AuthorizationPolicy>::clone(&authorization);
        client_options.per_try_policies.push(policy);
        let container = BlobContainerClient::new(
            url,
            None,
            Some(BlobContainerClientOptions {
                client_options,
                version: options.api_version.clone(),
            }),
        );
        Ok(Self {
            container: container.map_err(|_| BlobStoreConfigError::Client)?,
            authorization,
        })
    }
}

#[async_trait]
impl ContainerRequests for Client {
    async fn create(&self, name: &str, metadata: &Metadata) -> Result<Written, Failure> {
        let options = BlockBlobClientUploadOptions {
            metadata: Some(metadata.clone()),
            ..BlockBlobClientUploadOptions::default()
        }
        .if_not_exists();
        let client = self.container.blob_client(name).block_blob_client();
        let content = RequestContent::from(Vec::new());
        let answer = Box::pin(client.upload(content, Some(options))).await?;
        written(answer.raw_response.headers())
    }

    async fn put(&self, name: &str, content: &Bytes) -> Result<Written, Failure> {
        let options = BlockBlobClientUploadOptions {
            blob_content_type: Some(CONTENT_TYPE.to_owned()),
            // One part, so that one request is made and no task is left behind.
            partition_size: NonZeroU64::new(content.len() as u64),
            ..BlockBlobClientUploadOptions::default()
        };
        let client = self.container.blob_client(name).block_blob_client();
        let content = RequestContent::from(content.to_vec());
        let answer = Box::pin(client.upload(content, Some(options))).await?;
        written(answer.raw_response.headers())
    }

    async fn set_metadata(
        &self,
        name: &str,
        metadata: &Metadata,
        version: Option<&ETag>,
    ) -> Result<Written, Failure> {
        let options = BlobClientSetMetadataOptions {
            if_match: version.map(|version| Etag::from(quoted(version))),
            ..BlobClientSetMetadataOptions::default()
        };
        let client = self.container.blob_client(name);
        let answer = Box::pin(client.set_metadata(metadata, Some(options))).await?;
        written(answer.headers())
    }

    async fn properties(&self, name: &str) -> Result<Record, Failure> {
        let client = self.container.blob_client(name);
        let answer = Box::pin(client.get_properties(None)).await?;
        let Written {
            etag,
            last_modified,
        } = written(answer.headers())?;
        Ok(Record {
            name: name.to_owned(),
            metadata: metadata_headers(answer.headers()),
            etag,
            last_modified,
        })
    }

    async fn content(&self, name: &str) -> Result<Bytes, Failure> {
        let whole = MAX_CONTENT.try_into().ok();
        let options = BlobClientDownloadOptions {
            // One range and one part, so that one request is made and no task is left behind.
            range: Some(HttpRange::new(0, MAX_CONTENT as u64)),
            partition_size: whole,
            ..BlobClientDownloadOptions::default()
        };
        let client = self.container.blob_client(name);
        let answer = Box::pin(client.download(Some(options))).await?;
        Ok(answer.body.collect().await?)
    }

    async fn page(&self, prefix: &str, marker: Option<&str>) -> Result<Page, Failure> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            marker: marker.map(str::to_owned),
            prefix: Some(prefix.to_owned()),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.container.list_blobs(Some(options))?.into_pages();
        let answer = Box::pin(pages.try_next()).await?;
        let answer = answer.ok_or_else(|| Failure::incomplete("the listing has no page"))?;
        let as_of = date(answer.headers(), &DATE)
            .ok_or_else(|| Failure::incomplete("the listing has no date"))?;
        let model = answer.into_model()?;
        let records = model.blob_items.into_iter().filter_map(|item| {
            let properties = item.properties?;
            // A record without a version could never be written again; without a name it is none.
            let etag = unquoted(properties.etag?.as_ref())?;
            Some(Record {
                name: item.name?,
                metadata: item
                    .metadata
                    .and_then(|metadata| metadata.values)
                    .unwrap_or_default(),
                etag,
                last_modified: properties.last_modified.map(SystemTime::from),
            })
        });
        Ok(Page {
            as_of,
            records: records.collect(),
            next_marker: model.next_marker.filter(|marker| !marker.is_empty()),
        })
    }

    fn credential_error(&self) -> Option<LastError> {
        self.authorization.0.trouble()
    }
}

impl From<azure_core::Error> for Failure {
    fn from(error: azure_core::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return failure.clone();
        }
        match error.kind() {
            ErrorKind::HttpResponse {
                status,
                raw_response,
                ..
            } => {
                let headers = raw_response.as_ref().map(|raw| raw.headers());
                let header = |name| headers?.get_optional_str(&HeaderName::from_static(name));
                Self::answered(u16::from(*status), header, SystemTime::now())
            }
            ErrorKind::Credential => Self::behind(&error).unwrap_or_else(|| Self::unsent(&error)),
            ErrorKind::Connection => Self::unsent(&error),
            // `Io` for a lost connection, `DataConversion` for an answer that cannot be read.
            _ => Self::unanswered(&error),
        }
    }
}

fn written(headers: &Headers) -> Result<Written, Failure> {
    let etag = headers
        .get_optional_str(&ETAG)
        .and_then(unquoted)
        .ok_or_else(|| Failure::incomplete("the answer has no version tag"))?;
    Ok(Written {
        etag,
        last_modified: date(headers, &LAST_MODIFIED),
    })
}

fn date(headers: &Headers, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get_optional_str(name)?).ok()
}

fn metadata_headers(headers: &Headers) -> Metadata {
    let pairs = headers.iter().filter_map(|(name, value)| {
        let key = name.as_str().strip_prefix(METADATA_PREFIX)?;
        Some((key.to_owned(), value.as_str().to_owned()))
    });
    pairs.collect()
}
