//! What an answer, or the lack of one, means. Pure.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::error::{StoreError, StoreErrorKind};

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
    /// 416: the blob whose content was asked for has none.
    Empty,
    /// The request cannot have taken effect, and sending it again may help.
    NotDone,
    /// The request may have taken effect, whatever the answer says.
    Ambiguous,
    /// The request did not take effect and will not.
    Refused,
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
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

    /// The failure that was given to a client library to carry it through.
    pub(super) fn behind(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = error.source();
        while let Some(source) = next {
            if let Some(failure) = source.downcast_ref::<Self>() {
                return Some(failure.clone());
            }
            next = source.source();
        }
        None
    }

    /// A request that was never sent.
    pub(super) fn unsent(error: &(dyn StdError + 'static)) -> Self {
        Self::new(Class::NotDone, StoreErrorKind::Unavailable, describe(error))
    }

    /// A request of which nobody knows how far it came, or an answer that cannot be read.
    pub(super) fn unanswered(error: &(dyn StdError + 'static)) -> Self {
        Self::new(
            Class::Ambiguous,
            StoreErrorKind::Unavailable,
            describe(error),
        )
    }

    /// An answer that is no success. `header` looks a header up by its name in lower case.
    pub(super) fn answered<'a>(
        status: u16,
        header: impl Fn(&'static str) -> Option<&'a str>,
        now: SystemTime,
    ) -> Self {
        let code = header("x-ms-error-code").unwrap_or_default();
        let (class, kind) = classify(status, code);
        let mut detail = format!("HTTP {status}");
        for part in [code, header("x-ms-request-id").unwrap_or_default()] {
            if !part.is_empty() && part.len() <= 128 && part.bytes().all(|b| b.is_ascii_graphic()) {
                detail.push(' ');
                detail.push_str(part);
            }
        }
        if kind == StoreErrorKind::Unauthorized
            && let Some(skew) = header("date").and_then(|date| skew(date, now))
        {
            let seconds = skew.as_secs();
            detail.push_str(&format!(
                "; the local clock is {seconds} s off the store's, which alone makes signatures invalid"
            ));
        }
        Self {
            class,
            kind,
            retry_after: header("retry-after").and_then(retry_after),
            detail,
        }
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

/// PROTOCOL: status and error codes of the blob service.
fn classify(status: u16, code: &str) -> (Class, StoreErrorKind) {
    match (status, code) {
        (401 | 403, _) => (Class::Refused, StoreErrorKind::Unauthorized),
        (407, _) => (Class::Refused, StoreErrorKind::Proxy),
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
        (416, _) => (Class::Empty, StoreErrorKind::Rejected),
        (429, _) => (Class::NotDone, StoreErrorKind::Busy),
        (408, _) => (Class::Ambiguous, StoreErrorKind::Timeout),
        // Also told when the service gave up waiting for its own back end, so the write may have happened.
        (503, _) => (Class::Ambiguous, StoreErrorKind::Busy),
        (500.., _) => (Class::Ambiguous, StoreErrorKind::Unavailable),
        _ => (Class::Refused, StoreErrorKind::Rejected),
    }
}

/// PROTOCOL: RFC 9110 §10.2.3; only the form in seconds, which is the one that the service sends.
fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

fn skew(date: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(date).ok()?;
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

    fn answered(status: u16, headers: &[(&str, &'static str)], now: SystemTime) -> Failure {
        let header = |name| {
            headers
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, v)| *v)
        };
        Failure::answered(status, header, now)
    }

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
            (416, "InvalidRange", C::Empty, K::Rejected),
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
        let headers = [("date", "Mon, 23 Nov 2026 10:00:00 GMT")];
        let date = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        let off = answered(403, &headers, date - Duration::from_secs(3600));
        assert!(off.detail.contains("3600 s off"), "{}", off.detail);
        let close = answered(403, &headers, date + Duration::from_secs(10));
        assert!(!close.detail.contains("clock"), "{}", close.detail);
    }

    #[test]
    fn the_wait_asked_for_is_kept() {
        let failure = answered(503, &[("retry-after", "3")], SystemTime::now());
        let error = failure.into_error("renew");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert!(error.is_transient());
    }

    #[test]
    fn texts_with_a_url_are_left_out() {
        #[derive(Debug, thiserror::Error)]
        #[error("error sending request for url (https://a/?sig=canary)")]
        struct Outer(#[source] std::io::Error);

        let shown = describe(&Outer(std::io::Error::other("connection reset")));
        assert!(shown.contains("connection reset"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}
