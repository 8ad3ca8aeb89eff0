//! Metadata of blobs and containers: what is accepted, how it is kept.

use std::collections::BTreeMap;

use axum::http::HeaderMap;

use super::errors::{ErrorCode, StorageError};

/// PROTOCOL: names and values together may not exceed 8 KiB.
const MAX_BYTES: usize = 8 * 1024;
/// The start of every metadata header name.
pub(crate) const HEADER_PREFIX: &str = "x-ms-meta-";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    value: String,
}

/// A set of metadata pairs; names are compared without case and shown with the case they came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata(BTreeMap<String, Entry>);

impl Metadata {
    /// Collects the `x-ms-meta-*` headers of a request; `spelling` gives a lower-case name the
    /// case it had on the wire.
    pub(crate) fn from_headers(
        headers: &HeaderMap,
        spelling: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StorageError> {
        let mut metadata = Self::default();
        for (header, value) in headers {
            let Some(name) = header.as_str().strip_prefix(HEADER_PREFIX) else {
                continue;
            };
            let value = value
                .to_str()
                .map_err(|_| StorageError::from(ErrorCode::InvalidMetadata))?;
            let spelled = spelling(name).filter(|spelled| spelled.eq_ignore_ascii_case(name));
            metadata.insert(spelled.as_deref().unwrap_or(name), value)?;
        }
        Ok(metadata)
    }

    /// Adds a pair, or refuses it as the service would.
    pub(crate) fn insert(&mut self, name: &str, value: &str) -> Result<(), StorageError> {
        if name.is_empty() {
            return Err(ErrorCode::EmptyMetadataKey.into());
        }
        // PROTOCOL: names are C# identifiers; a header can carry only their ASCII part.
        let identifier = name
            .bytes()
            .enumerate()
            .all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()));
        if !identifier
            || value
                .bytes()
                .any(|b| !(b' '..=b'~').contains(&b) && b != b'\t')
        {
            return Err(ErrorCode::InvalidMetadata.into());
        }
        let entry = Entry {
            name: name.to_owned(),
            value: value.trim().to_owned(),
        };
        if self.0.insert(name.to_ascii_lowercase(), entry).is_some() {
            // PROTOCOL: the same name twice is a bad request, whatever the case.
            return Err(ErrorCode::InvalidMetadata.into());
        }
        if self.bytes() > MAX_BYTES {
            return Err(ErrorCode::MetadataTooLarge.into());
        }
        Ok(())
    }

    /// Takes over the spelling that `older` has for a name both hold.
    ///
    /// PROTOCOL: a name keeps the case it was created with.
    pub(crate) fn keep_spelling_of(&mut self, older: &Self) {
        for (key, entry) in &mut self.0 {
            if let Some(old) = older.0.get(key) {
                entry.name.clone_from(&old.name);
            }
        }
    }

    /// The pairs in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .values()
            .map(|entry| (entry.name.as_str(), entry.value.as_str()))
    }

    /// The bytes that count against the limit.
    pub(crate) fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Whether there is no pair.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Metadata, StorageError> {
        let mut metadata = Metadata::default();
        for (name, value) in pairs {
            metadata.insert(name, value)?;
        }
        Ok(metadata)
    }

    #[test]
    fn names_must_be_identifiers() {
        for good in ["ownerid", "_a1", "OwnerId", "hdi_isfolder"] {
            assert!(of(&[(good, "x")]).is_ok(), "{good}");
        }
        for bad in ["1a", "a-b", "a.b", "a b"] {
            assert_eq!(
                of(&[(bad, "x")]).unwrap_err().code,
                ErrorCode::InvalidMetadata
            );
        }
        assert_eq!(
            of(&[("", "x")]).unwrap_err().code,
            ErrorCode::EmptyMetadataKey
        );
    }

    #[test]
    fn empty_values_are_kept() {
        let metadata = of(&[("ownerid", "")]).unwrap();
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("ownerid", "")]);
    }

    #[test]
    fn the_limit_counts_names_and_values() {
        assert!(of(&[("ab", &"x".repeat(8190))]).is_ok());
        assert_eq!(
            of(&[("ab", &"x".repeat(8191))]).unwrap_err().code,
            ErrorCode::MetadataTooLarge
        );
    }

    #[test]
    fn one_name_in_two_cases_is_refused() {
        assert!(of(&[("ownerid", "a"), ("OwnerId", "b")]).is_err());
    }

    #[test]
    fn the_first_spelling_stays() {
        let older = of(&[("OwnerId", "a")]).unwrap();
        let mut newer = of(&[("ownerid", "b"), ("Offset", "1")]).unwrap();
        newer.keep_spelling_of(&older);
        assert_eq!(
            newer.iter().collect::<Vec<_>>(),
            [("Offset", "1"), ("OwnerId", "b")]
        );
    }
}
