//! The requests that the store makes of a container, whichever client library sends them.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::failure::Failure;
use super::metadata::Metadata;
use crate::checkpoint::Written;
use crate::error::LastError;
use crate::model::ETag;

/// Part of a request's time that may go into connecting.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Most bytes of one answer. A page of 5000 records has about 4.5 MB.
pub(super) const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Most bytes of a blob whose content is read. A checkpoint in an old format has about 200.
pub(super) const MAX_CONTENT: usize = 64 * 1024;

/// What the content of blobs is that are put.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// One container, as a client library reaches it. Every method is one request: no retry, no deadline.
#[async_trait]
pub(super) trait ContainerRequests: Send + Sync + 'static {
    /// Creates an empty blob, if there is none of this name.
    ///
    /// PROTOCOL: `Put Blob` with `If-None-Match: *`. The same condition on `Set Blob Metadata` is not
    /// dependable.
    async fn create(&self, name: &str, metadata: &Metadata) -> Result<Written, Failure>;

    /// Replaces the metadata of an existing blob, if it has the given version or any.
    async fn set_metadata(
        &self,
        name: &str,
        metadata: &Metadata,
        version: Option<&ETag>,
    ) -> Result<Written, Failure>;

    /// Puts a blob with this JSON, over one of this name that is there.
    ///
    /// PROTOCOL: `Put Blob` without a condition.
    async fn put(&self, name: &str, content: &Bytes) -> Result<Written, Failure>;

    /// Reads metadata and version of a blob.
    async fn properties(&self, name: &str) -> Result<Record, Failure>;

    /// Reads the first [`MAX_CONTENT`] bytes of a blob.
    async fn content(&self, name: &str) -> Result<Bytes, Failure>;

    /// Reads a page of a listing with metadata. The prefix is never empty.
    async fn page(&self, prefix: &str, marker: Option<&str>) -> Result<Page, Failure>;

    /// Why there is no new credential, if there should be.
    fn credential_error(&self) -> Option<LastError>;
}

/// A blob as a listing or a `HEAD` showed it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) metadata: Metadata,
    pub(super) etag: ETag,
    pub(super) last_modified: Option<SystemTime>,
}

/// A part of a listing.
#[derive(Debug)]
pub(super) struct Page {
    /// The `Date` of the answer.
    pub(super) as_of: SystemTime,
    pub(super) records: Vec<Record>,
    /// Where the next page begins; `None` after the last one.
    pub(super) next_marker: Option<String>,
}

/// PROTOCOL: headers put quotes around a version tag, listings leave them out.
pub(super) fn unquoted(text: &str) -> Option<ETag> {
    let text = text.trim();
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    (!bare.is_empty()).then(|| ETag::new(bare))
}

/// A version tag as `If-Match` takes it.
pub(super) fn quoted(etag: &ETag) -> String {
    let text = etag.as_str();
    // A weak tag (`W/"…"`) kept its own quotes.
    if text.contains('"') {
        text.to_owned()
    } else {
        format!("\"{text}\"")
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
        assert_eq!(quoted(&"0x8D".into()), "\"0x8D\"");
        assert_eq!(quoted(&"W/\"0x8D\"".into()), "W/\"0x8D\"");
        // A bare `*` would match anything.
        assert_eq!(quoted(&"*".into()), "\"*\"");
    }
}
