//! The four requests that the store makes of a container.

use std::time::SystemTime;

use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{Etag, RequestContent};
use azure_storage_blob::models::{
    BlobClientSetMetadataOptions, BlobContainerClientListBlobsOptions,
    BlockBlobClientUploadOptions, ListBlobsIncludeItem,
};
use futures_util::TryStreamExt as _;

use super::client::{Container, Deadline, Ended};
use super::errors::{Class, DATE, Failure};
use super::metadata::Metadata;
use crate::checkpoint::Written;
use crate::error::StoreErrorKind;
use crate::model::ETag;

const ETAG: HeaderName = HeaderName::from_static("etag");
const LAST_MODIFIED: HeaderName = HeaderName::from_static("last-modified");
const METADATA_PREFIX: &str = "x-ms-meta-";

/// Most pages and records of one listing. Event hubs have at most a few thousand partitions, and the service
/// puts 5000 records on a page.
const MAX_PAGES: usize = 32;
const MAX_RECORDS: usize = 20_000;

/// A blob as a listing or a `HEAD` showed it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) metadata: Metadata,
    pub(super) etag: ETag,
    pub(super) last_modified: Option<SystemTime>,
}

/// All blobs under a prefix.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) as_of: SystemTime,
    pub(super) records: Vec<Record>,
}

impl Container {
    /// Creates an empty blob, if there is none of this name.
    ///
    /// PROTOCOL: `Put Blob` with `If-None-Match: *`. The same condition on `Set Blob Metadata` is not
    /// dependable.
    pub(super) async fn create(
        &self,
        deadline: Deadline,
        name: &str,
        metadata: &Metadata,
    ) -> Ended<Written> {
        let client = self.client.blob_client(name).block_blob_client();
        self.run(deadline, || async {
            let options = BlockBlobClientUploadOptions {
                metadata: Some(metadata.clone()),
                ..BlockBlobClientUploadOptions::default()
            }
            .if_not_exists();
            let content = RequestContent::from(Vec::new());
            let answer = Box::pin(client.upload(content, Some(options))).await?;
            written(answer.raw_response.headers())
        })
        .await
    }

    /// Replaces the metadata of an existing blob, if it has the given version or any.
    pub(super) async fn set_metadata(
        &self,
        deadline: Deadline,
        name: &str,
        metadata: &Metadata,
        version: Option<&ETag>,
    ) -> Ended<Written> {
        let client = self.client.blob_client(name);
        self.run(deadline, || async {
            let options = BlobClientSetMetadataOptions {
                if_match: version.map(quoted),
                ..BlobClientSetMetadataOptions::default()
            };
            let answer = Box::pin(client.set_metadata(metadata, Some(options))).await?;
            written(answer.headers())
        })
        .await
    }

    /// Reads metadata and version of a blob; `None` if there is no such blob.
    pub(super) async fn properties(
        &self,
        deadline: Deadline,
        name: &str,
    ) -> Result<Option<Record>, Failure> {
        let client = self.client.blob_client(name);
        let read = self.run(deadline, || async {
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
        });
        match read.await.result {
            Ok(record) => Ok(Some(record)),
            Err(failure) if failure.class == Class::BlobNotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Lists all blobs under a prefix. One failed page fails the listing: a part of it would show partitions
    /// as free that are not.
    pub(super) async fn list(&self, deadline: Deadline, prefix: &str) -> Result<Listing, Failure> {
        let mut first_answer = None;
        let mut records = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.run(deadline, || self.page(prefix, marker.clone()));
            let page = page.await.result?;
            // The date of the first answer makes nobody look older than it is.
            let as_of = *first_answer.get_or_insert(page.as_of);
            records.extend(page.records);
            if records.len() > MAX_RECORDS {
                break;
            }
            match page.next_marker {
                None => {
                    return Ok(Listing { as_of, records });
                }
                next if next == marker => {
                    return Err(Failure::incomplete("the listing does not advance"));
                }
                next => marker = next,
            }
        }
        Err(Failure::new(
            Class::Refused,
            StoreErrorKind::Rejected,
            format!("the listing has more than {MAX_RECORDS} records or {MAX_PAGES} pages"),
        ))
    }

    async fn page(&self, prefix: &str, marker: Option<String>) -> Result<Page, Failure> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            marker,
            prefix: Some(prefix.to_owned()),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.client.list_blobs(Some(options))?.into_pages();
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
}

struct Page {
    as_of: SystemTime,
    records: Vec<Record>,
    next_marker: Option<String>,
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

/// PROTOCOL: headers put quotes around a version tag, listings leave them out.
fn unquoted(text: &str) -> Option<ETag> {
    let text = text.trim();
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    (!bare.is_empty()).then(|| ETag::new(bare))
}

fn quoted(etag: &ETag) -> Etag {
    let text = etag.as_str();
    // A weak tag (`W/"…"`) kept its own quotes.
    if text.contains('"') {
        Etag::from(text)
    } else {
        Etag::from(format!("\"{text}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_tags_compare_equal_however_they_came() {
        assert_eq!(unquoted("\"0x8D\""), unquoted("0x8D"));
        assert_eq!(unquoted(" \"0x8D\" "), Some("0x8D".into()));
        assert_eq!(unquoted("W/\"0x8D\""), Some("W/\"0x8D\"".into()));
        assert_eq!(unquoted("\"\""), None);
        assert_eq!(unquoted(""), None);
        assert_eq!(quoted(&"0x8D".into()).as_ref(), "\"0x8D\"");
        assert_eq!(quoted(&"W/\"0x8D\"".into()).as_ref(), "W/\"0x8D\"");
        // A bare `*` would match anything.
        assert_eq!(quoted(&"*".into()).as_ref(), "\"*\"");
    }
}
