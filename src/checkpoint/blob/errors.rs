//! What an answer, or the lack of one, means. Pure.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers};

use crate::error::{StoreError, StoreErrorKind};

const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
pub(super) const DATE: HeaderName = HeaderName::from_static("date");
const RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");

/// PROTOCOL: the service refuses a signature whose date is further off than 15 minutes; a smaller difference
/// is not worth a word.
const NOTABLE_SKEW: Duration = Duration::from_secs(5 * 60);

/// What a failed request means for the operation it was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// 409 `BlobAlreadyExists`: a create lost its race.
    Exists,
    /// 412: the record has another version by now.
    Stale,
    /// 404 `BlobNotFound`.
    BlobNotFound,
    /// The request cannot have taken effect, and sending it again may help.
    NotDone,
    /// The request may have taken effect, whatever the answer says.
    Ambiguous,
    /// The request did not take effect and will not.
    Refused,
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) kind: StoreErrorKind,
    pub(super) retry_after: Option<Duration>,
    /// What the other side said; shows no secret.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(class: Class, kind: StoreErrorKind, detail: impl Into<String>) -> Self {
        Self {
            class,
            kind,
            retry_after: None,
            detail: detail.into(),
        }
    }

    pub(super) fn timeout(limit: Duration) -> Self {
        Self::new(
            Class::Ambiguous,
            StoreErrorKind::Timeout,
            format!("no complete answer within {limit:?}"),
        )
    }

    /// An answer that says success and lacks what success must tell.
    pub(super) fn incomplete(detail: &'static str) -> Self {
        Self::new(Class::Ambiguous, StoreErrorKind::Unavailable, detail)
    }

    pub(super) fn is_worth_a_retry(&self) -> bool {
        matches!(self.class, Class::Ambiguous | Class::NotDone)
    }

    /// The failure as the caller of the store sees it.
    pub(super) fn into_error(self, operation: impl fmt::Display) -> StoreError {
        StoreError::new(self.kind, format!("{operation}: {}", self.detail))
            .with_retry_after(self.retry_after)
    }
}

impl From<azure_core::Error> for Failure {
    fn from(error: azure_core::Error) -> Self {
        match error.kind() {
            ErrorKind::HttpResponse {
                status,
                raw_response,
                ..
            } => {
                let empty = Headers::new();
                let headers = raw_response.as_ref().map_or(&empty, |raw| raw.headers());
                from_status(u16::from(*status), headers, SystemTime::now())
            }
            ErrorKind::Connection => Self::new(
                Class::NotDone,
                StoreErrorKind::Unavailable,
                describe(&error),
            ),
            ErrorKind::Credential => Self::new(
                Class::NotDone,
                StoreErrorKind::Unavailable,
                describe(&error),
            ),
            // `Io` for a lost connection, `DataConversion` for an answer that cannot be read.
            _ => Self::new(
                Class::Ambiguous,
                StoreErrorKind::Unavailable,
                describe(&error),
            ),
        }
    }
}

fn from_status(status: u16, headers: &Headers, now: SystemTime) -> Failure {
    let code = headers.get_optional_str(&ERROR_CODE).unwrap_or_default();
    let (class, kind) = classify(status, code);
    let mut detail = format!("HTTP {status}");
    for part in [
        code,
        headers.get_optional_str(&REQUEST_ID).unwrap_or_default(),
    ] {
        if !part.is_empty() && part.len() <= 128 && part.bytes().all(|b| b.is_ascii_graphic()) {
            detail.push(' ');
            detail.push_str(part);
        }
    }
    if kind == StoreErrorKind::Unauthorized
        && let Some(skew) = skew(headers, now)
    {
        let seconds = skew.as_secs();
        detail.push_str(&format!(
            "; the local clock is {seconds} s off the store's, which alone makes signatures invalid"
        ));
    }
    Failure {
        class,
        kind,
        retry_after: retry_after(headers),
        detail,
    }
}

/// PROTOCOL: status and error codes of the blob service.
fn classify(status: u16, code: &str) -> (Class, StoreErrorKind) {
    match (status, code) {
        (401 | 403, _) => (Class::Refused, StoreErrorKind::Unauthorized),
        (404, "BlobNotFound") => (Class::BlobNotFound, StoreErrorKind::Rejected),
        (404, "ContainerNotFound") => (Class::Refused, StoreErrorKind::ContainerNotFound),
        (409, "BlobAlreadyExists" | "") => (Class::Exists, StoreErrorKind::Rejected),
        // The container comes back under the same name, or an operator has to act: both take time.
        (409, "ContainerBeingDeleted" | "ContainerDisabled") => {
            (Class::Refused, StoreErrorKind::Unavailable)
        }
        // A blob under lease is no lost race: nobody may write it until the lease ends.
        (412, code) if code.starts_with("Lease") => (Class::Refused, StoreErrorKind::Rejected),
        (412, _) => (Class::Stale, StoreErrorKind::Rejected),
        (429, _) => (Class::NotDone, StoreErrorKind::Busy),
        (408, _) => (Class::Ambiguous, StoreErrorKind::Timeout),
        // Also told when the service gave up waiting for its own back end, so the write may have happened.
        (503, _) => (Class::Ambiguous, StoreErrorKind::Busy),
        (500.., _) => (Class::Ambiguous, StoreErrorKind::Unavailable),
        _ => (Class::Refused, StoreErrorKind::Rejected),
    }
}

/// PROTOCOL: RFC 9110 §10.2.3; only the form in seconds, which is the one that the service sends.
fn retry_after(headers: &Headers) -> Option<Duration> {
    let seconds = headers
        .get_optional_str(&RETRY_AFTER)?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

fn skew(headers: &Headers, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(headers.get_optional_str(&DATE)?).ok()?;
    let skew = match now.duration_since(date) {
        Ok(ahead) => ahead,
        Err(behind) => behind.duration(),
    };
    (skew >= NOTABLE_SKEW).then_some(skew)
}

/// The texts of an error and what stands behind it, without those that show a URL: it may carry a signature.
pub(super) fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !text.contains("://") && !text.contains("sig=") && parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    if parts.is_empty() {
        "the request failed".to_owned()
    } else {
        parts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_the_service_means() {
        use Class as C;
        use StoreErrorKind as K;
        for (status, code, class, kind) in [
            (409, "BlobAlreadyExists", C::Exists, K::Rejected),
            (412, "ConditionNotMet", C::Stale, K::Rejected),
            (412, "", C::Stale, K::Rejected),
            (412, "LeaseIdMissing", C::Refused, K::Rejected),
            (404, "BlobNotFound", C::BlobNotFound, K::Rejected),
            (404, "ContainerNotFound", C::Refused, K::ContainerNotFound),
            (404, "", C::Refused, K::Rejected),
            (403, "AuthenticationFailed", C::Refused, K::Unauthorized),
            (
                401,
                "NoAuthenticationInformation",
                C::Refused,
                K::Unauthorized,
            ),
            (409, "ContainerBeingDeleted", C::Refused, K::Unavailable),
            (409, "BlobImmutableDueToPolicy", C::Refused, K::Rejected),
            (429, "", C::NotDone, K::Busy),
            (503, "ServerBusy", C::Ambiguous, K::Busy),
            (500, "InternalError", C::Ambiguous, K::Unavailable),
            (504, "", C::Ambiguous, K::Unavailable),
            (408, "", C::Ambiguous, K::Timeout),
            (307, "", C::Refused, K::Rejected),
            (400, "InvalidHeaderValue", C::Refused, K::Rejected),
        ] {
            assert_eq!(classify(status, code), (class, kind), "{status} {code}");
        }
    }

    #[test]
    fn a_refusal_names_a_clock_that_is_off() {
        let mut headers = Headers::new();
        headers.insert("date", "Mon, 23 Nov 2026 10:00:00 GMT");
        let date = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        let off = from_status(403, &headers, date - Duration::from_secs(3600));
        assert!(off.detail.contains("3600 s off"), "{}", off.detail);
        let close = from_status(403, &headers, date + Duration::from_secs(10));
        assert!(!close.detail.contains("clock"), "{}", close.detail);
    }

    #[test]
    fn the_wait_asked_for_is_kept() {
        let mut headers = Headers::new();
        headers.insert("retry-after", "3");
        let failure = from_status(503, &headers, SystemTime::now());
        let error = failure.into_error("renew");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert!(error.is_transient());
    }

    #[test]
    fn texts_with_a_url_are_left_out() {
        let inner = std::io::Error::other("connection reset");
        let middle = azure_core::Error::with_error(
            ErrorKind::Io,
            inner,
            "error sending request for url (https://a/?sig=canary)",
        );
        let shown = describe(&middle);
        assert!(shown.contains("connection reset"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}
