//! Signs requests with an account key, which the client library does not do itself.
//!
//! PROTOCOL: "Authorize with Shared Key", the form for the blob service since version 2015-02-21.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
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

/// Last policy before the transport: dates and signs every try anew.
pub(super) struct SharedKeyPolicy {
    account_name: String,
    key: Hmac<Sha256>,
}

impl SharedKeyPolicy {
    pub(super) fn new(
        account_name: String,
        account_key: &Secret,
    ) -> Result<Self, ConnectionStringError> {
        let key = Hmac::new_from_slice(&decode_key(account_key)?).map_err(|_| {
            ConnectionStringError::Invalid {
                field: "AccountKey",
                reason: "it cannot be used as a key",
            }
        })?;
        Ok(Self { account_name, key })
    }

    fn authorization(&self, string_to_sign: &str) -> String {
        let mut mac = self.key.clone();
        mac.update(string_to_sign.as_bytes());
        let signature = BASE64.encode(mac.finalize().into_bytes());
        format!("SharedKey {}:{signature}", self.account_name)
    }
}

impl fmt::Debug for SharedKeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeyPolicy")
            .field("account_name", &self.account_name)
            .finish_non_exhaustive()
    }
}

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait elides it, and async_trait tells the two spellings apart"
)]
#[async_trait]
impl Policy for SharedKeyPolicy {
    async fn send(
        &self,
        ctx: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let date = httpdate::fmt_http_date(SystemTime::now());
        request.insert_header("x-ms-date", date);
        let text = string_to_sign(
            request.method().as_str(),
            request.headers(),
            request.url(),
            &self.account_name,
        );
        request.insert_header("authorization", self.authorization(&text));
        let (next, rest) = next.split_first().ok_or_else(|| {
            azure_core::Error::with_message(
                azure_core::error::ErrorKind::Other,
                "the signing policy must not be the last one",
            )
        })?;
        next.send(ctx, request, rest).await
    }
}

fn string_to_sign(method: &str, headers: &Headers, url: &Url, account_name: &str) -> String {
    let mut text = format!("{method}\n");
    for name in STANDARD_HEADERS {
        let value = headers
            .get_optional_str(&HeaderName::from_static(name))
            .unwrap_or_default();
        let is_signed_empty = name == "date" || (name == "content-length" && value == "0");
        text.push_str(if is_signed_empty { "" } else { value });
        text.push('\n');
    }
    let mut ms_headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().trim()))
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    ms_headers.sort_unstable();
    for (name, value) in ms_headers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}:{value}");
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

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn signs_a_conditional_metadata_write() {
        let url = "http://127.0.0.1:10000/devstoreaccount1/c/ns%2Fhub%2F$default%2Fownership%2F0?comp=metadata";
        let headers = headers(&[
            ("x-ms-version", "2021-12-02"),
            ("x-ms-meta-ownerid", ""),
            ("x-ms-date", "Mon, 23 Nov 2026 00:00:00 GMT"),
            ("content-length", "0"),
            ("if-match", "\"0x1\""),
            ("accept", "application/xml"),
        ]);
        assert_eq!(
            string_to_sign("PUT", &headers, &url.parse().unwrap(), "devstoreaccount1"),
            "PUT\n\n\n\n\n\n\n\n\"0x1\"\n\n\n\n\
             x-ms-date:Mon, 23 Nov 2026 00:00:00 GMT\nx-ms-meta-ownerid:\nx-ms-version:2021-12-02\n\
             /devstoreaccount1/devstoreaccount1/c/ns%2Fhub%2F$default%2Fownership%2F0\ncomp:metadata"
        );
    }

    #[test]
    fn signs_the_query_decoded_and_sorted() {
        let url = "https://contoso.blob.core.windows.net/c?restype=container&comp=list&prefix=a%2Fb%2F&include=metadata";
        let headers = headers(&[("x-ms-version", "2021-12-02")]);
        assert_eq!(
            string_to_sign("GET", &headers, &url.parse().unwrap(), "contoso"),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-version:2021-12-02\n\
             /contoso/c\ncomp:list\ninclude:metadata\nprefix:a/b/\nrestype:container"
        );
    }

    #[test]
    fn the_mac_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let policy = SharedKeyPolicy::new("acc".to_owned(), &Secret::new("SmVmZQ==")).unwrap();
        assert_eq!(
            policy.authorization("what do ya want for nothing?"),
            "SharedKey acc:W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn nothing_secret_prints() {
        let policy = SharedKeyPolicy::new("acc".to_owned(), &Secret::new("SmVmZQ==")).unwrap();
        let shown = format!("{policy:?} {policy:#?}");
        assert!(
            !shown.contains("SmVmZQ") && !shown.contains("Jefe"),
            "{shown}"
        );
    }
}
