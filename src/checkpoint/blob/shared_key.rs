//! Signatures with an account key. Pure.
//!
//! PROTOCOL: "Authorize with Shared Key", the form for the blob service since version 2015-02-21.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use url::Url;

use crate::credential::{ConnectionStringError, Secret, decode_key};

/// The headers whose values are signed without their names, in the order of the protocol. `Content-Length` is
/// handled apart, and `Date` is always empty because `x-ms-date` takes its place.
const STANDARD_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// An account and its key.
pub(super) struct SharedKey {
    account_name: String,
    key: Hmac<Sha256>,
}

impl SharedKey {
    pub(super) fn new(
        account_name: impl Into<String>,
        account_key: &Secret,
    ) -> Result<Self, ConnectionStringError> {
        let key = Hmac::new_from_slice(&decode_key(account_key)?).map_err(|_| {
            ConnectionStringError::Invalid {
                field: "AccountKey",
                reason: "it cannot be used as a key",
            }
        })?;
        let account_name = account_name.into();
        Ok(Self { account_name, key })
    }

    /// The value of the header `Authorization` for a request that has its `x-ms-date`.
    pub(super) fn authorization<'a>(
        &self,
        method: &str,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
        url: &Url,
    ) -> String {
        self.sign(&string_to_sign(method, headers, url, &self.account_name))
    }

    fn sign(&self, string_to_sign: &str) -> String {
        let mut mac = self.key.clone();
        mac.update(string_to_sign.as_bytes());
        let signature = BASE64.encode(mac.finalize().into_bytes());
        format!("SharedKey {}:{signature}", self.account_name)
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey")
            .field("account_name", &self.account_name)
            .finish_non_exhaustive()
    }
}

fn string_to_sign<'a>(
    method: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    url: &Url,
    account_name: &str,
) -> String {
    // In the order of the names, which is the one that is signed.
    let headers: BTreeMap<String, &str> = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let mut text = format!("{method}\n");
    for name in STANDARD_HEADERS {
        let value = headers.get(name).copied().unwrap_or_default();
        let is_signed_empty = name == "date" || (name == "content-length" && value == "0");
        text.push_str(if is_signed_empty { "" } else { value });
        text.push('\n');
    }
    for (name, value) in &headers {
        if name.starts_with("x-ms-") {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}:{value}");
        }
    }
    let _ = write!(text, "/{account_name}{}", url.path());
    let mut query: Vec<(String, String)> = url
        .query_pairs()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
        .collect();
    query.sort_unstable();
    for (name, value) in query {
        let _ = write!(text, "\n{name}:{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(method: &str, headers: &[(&str, &str)], url: &str, account_name: &str) -> String {
        let url = url.parse().unwrap();
        string_to_sign(method, headers.iter().copied(), &url, account_name)
    }

    #[test]
    fn signs_a_conditional_metadata_write() {
        let url = "http://127.0.0.1:10000/devstoreaccount1/c/ns%2Fhub%2F$default%2Fownership%2F0?comp=metadata";
        let headers = [
            ("x-ms-version", "2021-12-02"),
            ("x-ms-meta-ownerid", ""),
            ("x-ms-date", "Mon, 23 Nov 2026 00:00:00 GMT"),
            ("content-length", "0"),
            ("if-match", "\"0x1\""),
            ("accept", "application/xml"),
        ];
        assert_eq!(
            signed("PUT", &headers, url, "devstoreaccount1"),
            "PUT\n\n\n\n\n\n\n\n\"0x1\"\n\n\n\n\
             x-ms-date:Mon, 23 Nov 2026 00:00:00 GMT\nx-ms-meta-ownerid:\nx-ms-version:2021-12-02\n\
             /devstoreaccount1/devstoreaccount1/c/ns%2Fhub%2F$default%2Fownership%2F0\ncomp:metadata"
        );
    }

    #[test]
    fn signs_the_query_decoded_and_sorted() {
        let url = "https://contoso.blob.core.windows.net/c?restype=container&comp=list&prefix=a%2Fb%2F&include=metadata";
        let headers = [("x-ms-version", "2021-12-02")];
        assert_eq!(
            signed("GET", &headers, url, "contoso"),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-version:2021-12-02\n\
             /contoso/c\ncomp:list\ninclude:metadata\nprefix:a/b/\nrestype:container"
        );
    }

    #[test]
    fn the_mac_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let key = SharedKey::new("acc", &Secret::new("SmVmZQ==")).unwrap();
        assert_eq!(
            key.sign("what do ya want for nothing?"),
            "SharedKey acc:W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn nothing_secret_prints() {
        let key = SharedKey::new("acc", &Secret::new("SmVmZQ==")).unwrap();
        let shown = format!("{key:?} {key:#?}");
        assert!(
            !shown.contains("SmVmZQ") && !shown.contains("Jefe"),
            "{shown}"
        );
    }
}
