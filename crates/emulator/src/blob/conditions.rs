//! Conditional headers: `If-Match`, `If-None-Match` and the two dates.

use std::{fmt, time::SystemTime};

use axum::http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
};

use super::{
    Deviations,
    errors::{ErrorCode, StorageError},
};

/// The version tag of a resource; written without quotes in lists and with them in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ETag(pub(crate) u64);

impl ETag {
    /// The tag as headers carry it.
    pub(crate) fn quoted(self) -> String {
        format!("\"{self}\"")
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:X}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    OneOf(Vec<String>),
}

impl Tags {
    fn parse(text: &str) -> Self {
        let tags: Vec<String> = text
            .split(',')
            // INTEROP: every SDK may send the tag of a listing, which has no quotes.
            .map(|tag| tag.trim().trim_matches('"').to_owned())
            .filter(|tag| !tag.is_empty())
            .collect();
        if tags.iter().any(|tag| tag == "*") {
            Self::Any
        } else {
            Self::OneOf(tags)
        }
    }

    fn matches(&self, etag: ETag) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => tags.iter().any(|tag| *tag == etag.to_string()),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Any => 1,
            Self::OneOf(tags) => tags.len(),
        }
    }
}

/// What the conditions are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    /// The tag of the stored resource.
    pub(crate) etag: ETag,
    /// Its last change, in whole seconds.
    pub(crate) last_modified: SystemTime,
}

/// The conditional headers of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    if_modified_since: Option<SystemTime>,
    if_unmodified_since: Option<SystemTime>,
}

impl Conditions {
    /// Reads the conditional headers.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, StorageError> {
        let tags = |name: &HeaderName| -> Result<Option<Tags>, StorageError> {
            let mut joined = Vec::new();
            for value in headers.get_all(name) {
                let text = value.to_str().map_err(|_| invalid(name, ""))?;
                joined.push(text);
            }
            Ok((!joined.is_empty()).then(|| Tags::parse(&joined.join(","))))
        };
        let date = |name: &HeaderName| -> Result<Option<SystemTime>, StorageError> {
            let Some(value) = headers.get(name) else {
                return Ok(None);
            };
            let text = value.to_str().map_err(|_| invalid(name, ""))?;
            httpdate::parse_http_date(text)
                .map(Some)
                .map_err(|_| invalid(name, text))
        };
        Ok(Self {
            if_match: tags(&IF_MATCH)?,
            if_none_match: tags(&IF_NONE_MATCH)?,
            if_modified_since: date(&IF_MODIFIED_SINCE)?,
            if_unmodified_since: date(&IF_UNMODIFIED_SINCE)?,
        })
    }

    /// Whether the request asks to create only: `If-None-Match: *`.
    pub(crate) fn is_create_only(&self) -> bool {
        self.if_none_match == Some(Tags::Any)
    }

    /// Decides a read of an existing resource.
    ///
    /// PROTOCOL: reads since 2013-08-15 take lists and any mixture, evaluated as
    /// `If-Match && If-Unmodified-Since && (If-None-Match || If-Modified-Since)`.
    pub(crate) fn check_read(&self, version: Version) -> Result<(), StorageError> {
        if self.is_create_only() {
            return Err(ErrorCode::UnsatisfiableCondition.into());
        }
        let matched = self
            .if_match
            .as_ref()
            .is_none_or(|t| t.matches(version.etag));
        let unmodified = self
            .if_unmodified_since
            .is_none_or(|since| version.last_modified <= since);
        if !matched || !unmodified {
            return Err(ErrorCode::ConditionNotMet.into());
        }
        let other_tag = self
            .if_none_match
            .as_ref()
            .map(|t| !t.matches(version.etag));
        let modified = self
            .if_modified_since
            .map(|since| version.last_modified > since);
        match (other_tag, modified) {
            (None, None) => Ok(()),
            (a, b) if a.unwrap_or(false) || b.unwrap_or(false) => Ok(()),
            _ => Err(ErrorCode::NotModified.into()),
        }
    }

    /// Decides a write; `version` is `None` when the resource does not exist.
    ///
    /// PROTOCOL: writes take one tag, and only the pairs `If-None-Match` + `If-Modified-Since`
    /// (the first decides) and `If-Match` + `If-Unmodified-Since` (the first decides).
    pub(crate) fn check_write(
        &self,
        version: Option<Version>,
        deviations: Deviations,
    ) -> Result<(), StorageError> {
        self.check_combination()?;
        let met = match (&self.if_none_match, &self.if_match, version) {
            (Some(Tags::Any), _, Some(_)) => deviations.set_metadata_ignores_if_none_match_any,
            (Some(tags), _, Some(version)) => !tags.matches(version.etag),
            (Some(_), _, None) => true,
            (None, Some(tags), Some(version)) => tags.matches(version.etag),
            (None, Some(_), None) => false,
            (None, None, Some(version)) => {
                let last = version.last_modified;
                self.if_modified_since.is_none_or(|since| last > since)
                    && self.if_unmodified_since.is_none_or(|since| last <= since)
            }
            (None, None, None) => true,
        };
        if met {
            Ok(())
        } else {
            Err(ErrorCode::ConditionNotMet.into())
        }
    }

    fn check_combination(&self) -> Result<(), StorageError> {
        let several = |tags: &Option<Tags>| tags.as_ref().is_some_and(|tags| tags.count() > 1);
        let positive = self.if_match.is_some() || self.if_unmodified_since.is_some();
        let negative = self.if_none_match.is_some() || self.if_modified_since.is_some();
        if several(&self.if_match) || several(&self.if_none_match) || (positive && negative) {
            return Err(ErrorCode::MultipleConditionHeadersNotSupported.into());
        }
        Ok(())
    }
}

fn invalid(name: &HeaderName, value: &str) -> StorageError {
    StorageError::header(ErrorCode::InvalidHeaderValue, name.as_str(), value)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const OLD: &str = "Thu, 01 Jan 1970 00:00:10 GMT";
    const SAME: &str = "Thu, 01 Jan 1970 00:00:20 GMT";

    fn version() -> Version {
        Version {
            etag: ETag(0xAB),
            last_modified: UNIX_EPOCH + Duration::from_secs(20),
        }
    }

    fn conditions(headers: &[(&str, &str)]) -> Conditions {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        Conditions::from_headers(&map).unwrap()
    }

    fn read(headers: &[(&str, &str)]) -> Result<(), ErrorCode> {
        conditions(headers)
            .check_read(version())
            .map_err(|e| e.code)
    }

    fn write(headers: &[(&str, &str)], version: Option<Version>) -> Result<(), ErrorCode> {
        conditions(headers)
            .check_write(version, Deviations::default())
            .map_err(|e| e.code)
    }

    #[test]
    fn tags_match_with_and_without_quotes() {
        for tag in ["\"0xAB\"", "0xAB", "*"] {
            assert_eq!(write(&[("if-match", tag)], Some(version())), Ok(()));
        }
        let stale = write(&[("if-match", "0xAA")], Some(version()));
        assert_eq!(stale, Err(ErrorCode::ConditionNotMet));
    }

    #[test]
    fn a_missing_resource_meets_only_negative_conditions() {
        assert_eq!(write(&[("if-none-match", "*")], None), Ok(()));
        assert_eq!(
            write(&[("if-match", "*")], None),
            Err(ErrorCode::ConditionNotMet)
        );
    }

    #[test]
    fn an_existing_resource_fails_create_only() {
        let met = write(&[("if-none-match", "*")], Some(version()));
        assert_eq!(met, Err(ErrorCode::ConditionNotMet));
    }

    #[test]
    fn writes_refuse_lists_and_mixed_conditions() {
        let refused = Err(ErrorCode::MultipleConditionHeadersNotSupported);
        assert_eq!(
            write(&[("if-match", "0xAB, 0xAC")], Some(version())),
            refused
        );
        let mixed = [("if-match", "0xAB"), ("if-none-match", "0xAC")];
        assert_eq!(write(&mixed, Some(version())), refused);
        let pair = [("if-match", "0xAB"), ("if-unmodified-since", OLD)];
        assert_eq!(write(&pair, Some(version())), Ok(()), "the tag decides");
    }

    #[test]
    fn reads_take_lists_and_answer_304() {
        assert_eq!(read(&[("if-match", "0xAA, \"0xAB\"")]), Ok(()));
        let unchanged = Err(ErrorCode::NotModified);
        assert_eq!(read(&[("if-none-match", "0xAA,0xAB")]), unchanged);
        assert_eq!(read(&[("if-modified-since", SAME)]), unchanged);
        assert_eq!(read(&[("if-modified-since", OLD)]), Ok(()));
        let either = [("if-none-match", "0xAB"), ("if-modified-since", OLD)];
        assert_eq!(read(&either), Ok(()), "one of the two is enough");
        assert_eq!(
            read(&[("if-unmodified-since", OLD)]),
            Err(ErrorCode::ConditionNotMet)
        );
        assert_eq!(
            read(&[("if-none-match", "*")]),
            Err(ErrorCode::UnsatisfiableCondition)
        );
    }

    #[test]
    fn dates_decide_writes() {
        let write = |name, date| write(&[(name, date)], Some(version()));
        assert_eq!(write("if-unmodified-since", SAME), Ok(()));
        assert_eq!(
            write("if-unmodified-since", OLD),
            Err(ErrorCode::ConditionNotMet)
        );
        assert_eq!(write("if-modified-since", OLD), Ok(()));
        assert_eq!(
            write("if-modified-since", SAME),
            Err(ErrorCode::ConditionNotMet)
        );
    }

    #[test]
    fn a_bad_date_is_an_invalid_header() {
        let mut map = HeaderMap::new();
        map.insert(IF_MODIFIED_SINCE, "yesterday".parse().unwrap());
        let error = Conditions::from_headers(&map).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidHeaderValue);
    }
}
