//! Building replies: the headers every reply has, and those of each kind.

use std::time::SystemTime;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
            CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, SERVER,
            WWW_AUTHENTICATE,
        },
    },
};
use bytes::Bytes;

use super::{
    clock::http_date,
    conditions::Version,
    errors::{ErrorCode, StorageError},
    metadata::{HEADER_PREFIX, Metadata},
    state::{Blob, Container},
    xml,
};

/// What a request without a version is answered with.
const DEFAULT_VERSION: &str = "2021-12-02";

/// A reply in the making.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A reply without a body.
    pub(crate) fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A reply with an XML body.
    pub(crate) fn xml(status: StatusCode, body: Vec<u8>) -> Self {
        let mut reply = Self::new(status);
        reply.set(CONTENT_TYPE, "application/xml");
        reply.body = body.into();
        reply
    }

    /// The reply to a refused request; `HEAD` and 304 leave the body out.
    pub(crate) fn error(error: &StorageError, request_id: &str, now: SystemTime) -> Self {
        let status = error.code.status();
        let mut reply = match xml::error(error, request_id, now) {
            Ok(body) if status != StatusCode::NOT_MODIFIED => Self::xml(status, body),
            _ => Self::new(status),
        };
        reply.set("x-ms-error-code", error.code.as_str());
        if error.code == ErrorCode::NoAuthenticationInformation {
            reply.set(WWW_AUTHENTICATE, "SharedKey");
        }
        reply
    }

    /// The reply to a successful write.
    pub(crate) fn written(status: StatusCode, version: Version) -> Self {
        let mut reply = Self::new(status);
        reply.version(version);
        reply
    }

    /// The properties of a container.
    pub(crate) fn container(container: &Container) -> Self {
        let mut reply = Self::new(StatusCode::OK);
        reply.version(Version {
            etag: container.etag,
            last_modified: container.last_modified,
        });
        reply.lease();
        reply.set("x-ms-has-immutability-policy", "false");
        reply.set("x-ms-has-legal-hold", "false");
        reply.metadata(&container.metadata);
        reply
    }

    /// The properties of a blob, without its content.
    pub(crate) fn blob(blob: &Blob) -> Self {
        let mut reply = Self::new(StatusCode::OK);
        let headers = &blob.headers;
        for (name, value) in [
            (CONTENT_TYPE, &headers.content_type),
            (CONTENT_ENCODING, &headers.encoding),
            (CONTENT_LANGUAGE, &headers.language),
            (HeaderName::from_static("content-md5"), &headers.md5),
            (CACHE_CONTROL, &headers.cache_control),
            (CONTENT_DISPOSITION, &headers.disposition),
        ] {
            if let Some(value) = value {
                reply.set(name, value);
            }
        }
        reply.version(blob.version());
        reply.lease();
        reply.set(ACCEPT_RANGES, "bytes");
        reply.set("x-ms-blob-type", "BlockBlob");
        reply.set("x-ms-creation-time", &http_date(blob.created));
        reply.set("x-ms-server-encrypted", "true");
        reply.set("x-ms-access-tier", "Hot");
        reply.set("x-ms-access-tier-inferred", "true");
        reply.metadata(&blob.metadata);
        reply
    }

    /// Adds the content of a blob, or the part of it that was asked for.
    pub(crate) fn with_content(
        mut self,
        content: &Bytes,
        range: Option<&str>,
    ) -> Result<Self, StorageError> {
        let Some((first, last)) = range.and_then(parse_range) else {
            self.body = content.clone();
            return Ok(self);
        };
        let length = content.len();
        if first >= length {
            // INTEROP: clients ask for the first megabytes of any blob, an empty one too, and
            // take this answer for "there is nothing".
            return Err(ErrorCode::InvalidRange.into());
        }
        let last = last.unwrap_or(usize::MAX).min(length - 1);
        self.status = StatusCode::PARTIAL_CONTENT;
        self.set(CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
        self.body = content.slice(first..=last);
        Ok(self)
    }

    /// Sets a header; a value that a header cannot carry is left out.
    pub(crate) fn set(&mut self, name: impl TryInto<HeaderName>, value: &str) {
        if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
    }

    /// Adds the metadata as headers, those without a value too.
    pub(crate) fn metadata(&mut self, metadata: &Metadata) {
        for (name, value) in metadata.iter() {
            self.set(format!("{HEADER_PREFIX}{name}"), value);
        }
    }

    fn version(&mut self, version: Version) {
        self.set(ETAG, &version.etag.quoted());
        self.set(LAST_MODIFIED, &http_date(version.last_modified));
    }

    fn lease(&mut self) {
        self.set("x-ms-lease-status", "unlocked");
        self.set("x-ms-lease-state", "available");
    }

    /// Adds what every reply has and seals it.
    pub(crate) fn finish(
        mut self,
        request: &HeaderMap,
        is_head: bool,
        request_id: &str,
        now: SystemTime,
    ) -> Response<Body> {
        self.set(DATE, &http_date(now));
        // INTEROP: azure_storage_blobs 0.21 fails on a reply without `Server`.
        self.set(SERVER, "Windows-Azure-Blob/1.0 eventhubs-emulator");
        self.set("x-ms-request-id", request_id);
        let version = request.get("x-ms-version").cloned();
        self.headers.insert(
            "x-ms-version",
            version.unwrap_or_else(|| HeaderValue::from_static(DEFAULT_VERSION)),
        );
        if let Some(id) = request.get("x-ms-client-request-id") {
            self.headers.insert("x-ms-client-request-id", id.clone());
        }
        let length = self.body.len();
        if self.status != StatusCode::NOT_MODIFIED && !self.headers.contains_key(CONTENT_LENGTH) {
            self.headers.insert(CONTENT_LENGTH, length.into());
        }
        let body = if is_head { Bytes::new() } else { self.body };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Reads `bytes=a-b` and `bytes=a-`; anything else asks for the whole.
fn parse_range(text: &str) -> Option<(usize, Option<usize>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = match last {
        "" => None,
        last => Some(last.parse().ok().filter(|last| *last >= first)?),
    };
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(range: &str) -> Result<(StatusCode, Bytes), ErrorCode> {
        let content = Bytes::from_static(b"0123456789");
        Reply::new(StatusCode::OK)
            .with_content(&content, Some(range))
            .map(|reply| (reply.status, reply.body))
            .map_err(|e| e.code)
    }

    #[test]
    fn ranges_are_cut_to_the_content() {
        let partial = StatusCode::PARTIAL_CONTENT;
        assert_eq!(part("bytes=2-3"), Ok((partial, "23".into())));
        assert_eq!(part("bytes=8-99"), Ok((partial, "89".into())));
        assert_eq!(part("bytes=8-"), Ok((partial, "89".into())));
        assert_eq!(part("bytes=10-"), Err(ErrorCode::InvalidRange));
        assert_eq!(part("lines=1-2"), Ok((StatusCode::OK, "0123456789".into())));
        assert_eq!(part("bytes=3-2"), Ok((StatusCode::OK, "0123456789".into())));
    }
}
