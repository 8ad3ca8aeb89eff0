//! How to reach and authenticate against a storage account.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use url::Url;

use super::pairs::{self, ConnectionStringError};
use super::{NamedKeyCredential, Secret, SignatureSource, TokenCredential};
use crate::error::BoxError;

const ACCOUNT_NAME: &str = "AccountName";
const ACCOUNT_KEY: &str = "AccountKey";
const BLOB_ENDPOINT: &str = "BlobEndpoint";
const ENDPOINT_SUFFIX: &str = "EndpointSuffix";
const PROTOCOL: &str = "DefaultEndpointsProtocol";
const SAS: &str = "SharedAccessSignature";
const DEVELOPMENT: &str = "UseDevelopmentStorage";
const DEVELOPMENT_PROXY: &str = "DevelopmentStorageProxyUri";

/// Suffix of the public cloud, which every SDK assumes where the string names none.
const PUBLIC_SUFFIX: &str = "core.windows.net";

/// Account, key and blob port that every storage emulator has. Published, hence no secret.
const DEVELOPMENT_ACCOUNT: &str = "devstoreaccount1";
const DEVELOPMENT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const DEVELOPMENT_PORT: u16 = 10000;

/// What a request to a storage account proves itself with. Its `Debug` form shows no secret.
#[derive(Clone, Debug)]
pub struct StorageCredential(pub(crate) StorageCredentialKind);

#[derive(Clone, Debug)]
pub(crate) enum StorageCredentialKind {
    /// One of the two keys of the account. Every request is signed with it; it does not travel.
    AccountKey(NamedKeyCredential),
    /// The query of a signed URL.
    SharedAccessSignature(StorageSignature),
    /// Signatures that somebody else mints whenever they are needed.
    RenewableSignature(SignatureSource),
    /// Bearer tokens.
    Token(Arc<dyn TokenCredential>),
}

impl StorageCredential {
    /// The key of an account, in base64 as the portal shows it.
    pub fn account_key(account_name: impl Into<String>, account_key: impl Into<Secret>) -> Self {
        Self::named_key(NamedKeyCredential::new(account_name, account_key))
    }

    /// The same, with a key that can be replaced while stores use it: the next request is signed with the new one.
    #[must_use]
    pub fn named_key(key: NamedKeyCredential) -> Self {
        Self(StorageCredentialKind::AccountKey(key))
    }

    /// A shared access signature: the query of a signed URL, with or without its leading `?`. Nobody can renew it:
    /// after its expiry every operation fails with [`Unauthorized`](crate::error::StoreErrorKind::Unauthorized).
    pub fn shared_access_signature(signature: impl Into<Secret>) -> Self {
        let signature = StorageSignature::new(&signature.into());
        Self(StorageCredentialKind::SharedAccessSignature(signature))
    }

    /// Signatures that the application gets from elsewhere, one after the other: `mint` is called with the URL of the
    /// container and returns the query of a signed URL that allows to read, list, create and write blobs in it. It is
    /// called again, beside the requests, after 72 to 80 % of the life that `se` gives (an hour, where it gives none),
    /// at least 5 s apart, and has 30 s.
    pub fn renewable_signature<F, Fut>(mint: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, BoxError>> + Send + 'static,
    {
        let source = SignatureSource::new(mint);
        Self(StorageCredentialKind::RenewableSignature(source))
    }

    /// Tokens of Microsoft Entra ID. Sent over https only, except to this machine.
    pub fn token(credential: Arc<dyn TokenCredential>) -> Self {
        Self(StorageCredentialKind::Token(credential))
    }

    /// Checks what can be checked without asking the service, in the terms of a connection string.
    pub(crate) fn check(&self) -> Result<(), ConnectionStringError> {
        match &self.0 {
            StorageCredentialKind::AccountKey(key) => {
                let current = key.current().key;
                check_account_name(current.name())?;
                decode_key(current.key()).map(|_| ())
            }
            StorageCredentialKind::SharedAccessSignature(signature) => signature.check(),
            StorageCredentialKind::RenewableSignature(_) | StorageCredentialKind::Token(_) => {
                Ok(())
            }
        }
    }
}

/// The query of a signed URL, without its leading `?`.
#[derive(Clone, Debug)]
pub(crate) struct StorageSignature(Secret);

impl StorageSignature {
    pub(crate) fn new(text: &Secret) -> Self {
        let text = text.expose();
        Self(Secret::new(text.strip_prefix('?').unwrap_or(text)))
    }

    pub(crate) fn text(&self) -> &Secret {
        &self.0
    }

    /// When it expires (`se`). `None`: it does not say, because a policy of the container does.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        let fields = url::form_urlencoded::parse(self.0.expose().as_bytes());
        let (_, expiry) = fields.into_iter().find(|(name, _)| name == "se")?;
        // PROTOCOL: "Create a service SAS": a date, or a date and a time in UTC to the minute or the second.
        let expiry = match expiry.len() {
            10 => format!("{expiry}T00:00Z"),
            _ => expiry.into_owned(),
        };
        OffsetDateTime::parse(&expiry, &Iso8601::DEFAULT)
            .ok()
            .map(SystemTime::from)
    }

    pub(crate) fn check(&self) -> Result<(), ConnectionStringError> {
        let signature = self.0.expose();
        let has_sig = signature
            .split('&')
            .any(|pair| pair.strip_prefix("sig=").is_some_and(|sig| !sig.is_empty()));
        if !has_sig || !signature.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(ConnectionStringError::Invalid {
                field: SAS,
                reason: "it must be the query of a signed URL, with a `sig`",
            });
        }
        Ok(())
    }
}

/// A parsed connection string of a storage account, such as the portal shows under "access keys".
///
/// Understands `AccountName` with `AccountKey`, `SharedAccessSignature`, `BlobEndpoint`, `EndpointSuffix`,
/// `DefaultEndpointsProtocol=https`, and `UseDevelopmentStorage=true` with an optional
/// `DevelopmentStorageProxyUri`. Unknown fields, such as the endpoints of other services, are ignored.
#[derive(Clone)]
pub struct StorageConnectionString {
    blob_endpoint: Url,
    credential: StorageCredential,
}

impl StorageConnectionString {
    /// Reads a connection string.
    ///
    /// Plain http is used only where a `BlobEndpoint` says so, as the storage emulators need it.
    ///
    /// # Errors
    ///
    /// [`ConnectionStringError`], which names the field at fault and never shows its value: a field is
    /// missing, given twice, in conflict with another one, or does not have the form it must have (a key
    /// that is not base64, a signature without `sig`, an endpoint that is not an http URL).
    pub fn parse(connection_string: &str) -> Result<Self, ConnectionStringError> {
        let [
            name,
            key,
            endpoint,
            suffix,
            protocol,
            sas,
            development,
            proxy,
        ] = pairs::parse(
            connection_string,
            [
                ACCOUNT_NAME,
                ACCOUNT_KEY,
                BLOB_ENDPOINT,
                ENDPOINT_SUFFIX,
                PROTOCOL,
                SAS,
                DEVELOPMENT,
                DEVELOPMENT_PROXY,
            ],
        )?;
        if is_development(development.as_deref())? {
            for (value, field) in [(&name, ACCOUNT_NAME), (&key, ACCOUNT_KEY), (&sas, SAS)] {
                if value.is_some() {
                    return Err(ConnectionStringError::Conflict {
                        first: DEVELOPMENT,
                        second: field,
                    });
                }
            }
            return Self::development(endpoint.as_deref(), proxy.as_deref());
        }
        let credential = match (key, sas) {
            (Some(_), Some(_)) => {
                return Err(ConnectionStringError::Conflict {
                    first: ACCOUNT_KEY,
                    second: SAS,
                });
            }
            (Some(key), None) => {
                let name = name.clone().ok_or(ConnectionStringError::Missing {
                    field: ACCOUNT_NAME,
                })?;
                StorageCredential::account_key(name, key)
            }
            (None, Some(sas)) => StorageCredential::shared_access_signature(sas),
            (None, None) => return Err(ConnectionStringError::Missing { field: ACCOUNT_KEY }),
        };
        credential.check()?;
        let blob_endpoint = match endpoint {
            Some(endpoint) => endpoint_of(&endpoint, BLOB_ENDPOINT)?,
            None => default_endpoint(name.as_deref(), suffix.as_deref(), protocol.as_deref())?,
        };
        Ok(Self {
            blob_endpoint,
            credential,
        })
    }

    /// URL of the account's blob service.
    #[must_use]
    pub fn blob_endpoint(&self) -> &str {
        self.blob_endpoint.as_str()
    }

    /// What requests prove themselves with.
    #[must_use]
    pub fn credential(&self) -> &StorageCredential {
        &self.credential
    }

    fn development(
        endpoint: Option<&str>,
        proxy: Option<&str>,
    ) -> Result<Self, ConnectionStringError> {
        let blob_endpoint = match (endpoint, proxy) {
            (Some(endpoint), _) => endpoint_of(endpoint, BLOB_ENDPOINT)?,
            (None, proxy) => {
                let mut url = endpoint_of(proxy.unwrap_or("http://127.0.0.1"), DEVELOPMENT_PROXY)?;
                let port = url.port().unwrap_or(DEVELOPMENT_PORT);
                // Cannot fail: an http URL with a host takes a port.
                let _ = url.set_port(Some(port));
                url.set_path(DEVELOPMENT_ACCOUNT);
                url
            }
        };
        Ok(Self {
            blob_endpoint,
            credential: StorageCredential::account_key(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY),
        })
    }
}

impl fmt::Debug for StorageConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConnectionString")
            .field("blob_endpoint", &self.blob_endpoint.as_str())
            .field("credential", &self.credential)
            .finish()
    }
}

impl FromStr for StorageConnectionString {
    type Err = ConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The bytes of an account key.
pub(crate) fn decode_key(key: &Secret) -> Result<Vec<u8>, ConnectionStringError> {
    match BASE64.decode(key.expose()) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(ConnectionStringError::Invalid {
            field: ACCOUNT_KEY,
            reason: "it must be base64",
        }),
    }
}

/// The URL of a blob service: http or https, with a host and without user, query or fragment. Fails with
/// what was expected, and shows no value.
pub(crate) fn parse_endpoint(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it must be a URL")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it must be an http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not contain a user or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not contain a query or fragment");
    }
    Ok(url)
}

fn endpoint_of(text: &str, field: &'static str) -> Result<Url, ConnectionStringError> {
    parse_endpoint(text).map_err(|reason| ConnectionStringError::Invalid { field, reason })
}

fn is_development(value: Option<&str>) -> Result<bool, ConnectionStringError> {
    match value {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some(_) => Err(ConnectionStringError::Invalid {
            field: DEVELOPMENT,
            reason: "it can only be `true`",
        }),
    }
}

fn default_endpoint(
    name: Option<&str>,
    suffix: Option<&str>,
    protocol: Option<&str>,
) -> Result<Url, ConnectionStringError> {
    let name = name.ok_or(ConnectionStringError::Missing {
        field: BLOB_ENDPOINT,
    })?;
    check_account_name(name)?;
    if protocol.is_some_and(|protocol| !protocol.eq_ignore_ascii_case("https")) {
        return Err(ConnectionStringError::Invalid {
            field: PROTOCOL,
            reason: "only https; name a `BlobEndpoint` to use http",
        });
    }
    let suffix = suffix.unwrap_or(PUBLIC_SUFFIX);
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if !suffix.chars().all(is_host) {
        return Err(ConnectionStringError::Invalid {
            field: ENDPOINT_SUFFIX,
            reason: "it must be a domain name",
        });
    }
    endpoint_of(&format!("https://{name}.blob.{suffix}"), ENDPOINT_SUFFIX)
}

/// The name becomes part of a host and of what is signed.
fn check_account_name(name: &str) -> Result<(), ConnectionStringError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(ConnectionStringError::Invalid {
            field: ACCOUNT_NAME,
            reason: "it must consist of ASCII letters and digits",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ConnectionStringError as E;

    const KEY: &str = "c2VjcmV0LWNhbmFyeS1rZXk=";

    fn parse(text: &str) -> Result<StorageConnectionString, E> {
        StorageConnectionString::parse(text)
    }

    #[test]
    fn reads_what_the_portal_shows() {
        let parsed = parse(&format!(
            "DefaultEndpointsProtocol=https;AccountName=contoso;AccountKey={DEVELOPMENT_KEY};EndpointSuffix=core.chinacloudapi.cn"
        ))
        .unwrap();
        assert_eq!(
            parsed.blob_endpoint(),
            "https://contoso.blob.core.chinacloudapi.cn/"
        );
        let StorageCredentialKind::AccountKey(key) = &parsed.credential().0 else {
            panic!("not an account key");
        };
        let current = key.current().key;
        assert_eq!(current.name(), "contoso");
        assert_eq!(current.key().expose(), DEVELOPMENT_KEY);
    }

    #[test]
    fn assumes_the_public_cloud() {
        let parsed = parse(&format!("AccountName=contoso;AccountKey={KEY}")).unwrap();
        assert_eq!(
            parsed.blob_endpoint(),
            "https://contoso.blob.core.windows.net/"
        );
    }

    #[test]
    fn a_signature_keeps_its_equals_signs_and_loses_its_question_mark() {
        for text in [
            "BlobEndpoint=https://c.blob.core.windows.net/;SharedAccessSignature=?sv=2021-12-02&sig=a%3D=",
            "BlobEndpoint=https://c.blob.core.windows.net/;SharedAccessSignature=sv=2021-12-02&sig=a%3D=",
        ] {
            let parsed = parse(text).unwrap();
            let StorageCredentialKind::SharedAccessSignature(sas) = &parsed.credential().0 else {
                panic!("not a signature");
            };
            assert_eq!(sas.text().expose(), "sv=2021-12-02&sig=a%3D=");
        }
    }

    #[test]
    fn the_expiry_of_a_signature_is_read_in_every_form() {
        let expiry = |text: &str| {
            let signature = StorageSignature::new(&Secret::new(format!("?sig=a&{text}")));
            let since = signature
                .expires_at()?
                .duration_since(SystemTime::UNIX_EPOCH);
            Some(since.unwrap().as_secs())
        };
        // `date -u -d 2030-01-02T03:04:05Z +%s`
        assert_eq!(expiry("se=2030-01-02T03%3A04%3A05Z"), Some(1_893_553_445));
        assert_eq!(expiry("se=2030-01-02T03:04:05Z"), Some(1_893_553_445));
        assert_eq!(expiry("se=2030-01-02T03%3A04Z"), Some(1_893_553_440));
        assert_eq!(
            expiry("se=2030-01-02T03%3A04%3A05.0000000Z"),
            Some(1_893_553_445)
        );
        assert_eq!(expiry("se=2030-01-02"), Some(1_893_542_400));
        assert_eq!(expiry("si=policy"), None);
        assert_eq!(expiry("se=soon"), None);
    }

    #[test]
    fn development_storage_is_the_local_emulator() {
        let parsed = parse("UseDevelopmentStorage=true").unwrap();
        assert_eq!(
            parsed.blob_endpoint(),
            "http://127.0.0.1:10000/devstoreaccount1"
        );
        let proxied =
            parse("UseDevelopmentStorage=True;DevelopmentStorageProxyUri=http://box/").unwrap();
        assert_eq!(proxied.blob_endpoint(), "http://box:10000/devstoreaccount1");
    }

    #[test]
    fn http_needs_an_endpoint_that_says_so() {
        let parsed = parse(&format!(
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:1/devstoreaccount1;"
        ))
        .unwrap();
        assert!(parsed.blob_endpoint().starts_with("http://127.0.0.1:1/"));
        assert!(matches!(
            parse(&format!(
                "DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY}"
            )),
            Err(E::Invalid {
                field: PROTOCOL,
                ..
            })
        ));
    }

    #[test]
    fn mistakes_name_the_field() {
        let cases = [
            ("AccountName=a", E::Missing { field: ACCOUNT_KEY }),
            (
                "AccountKey=YQ==",
                E::Missing {
                    field: ACCOUNT_NAME,
                },
            ),
            (
                "SharedAccessSignature=sig=a",
                E::Missing {
                    field: BLOB_ENDPOINT,
                },
            ),
            (
                "AccountName=a;AccountKey=YQ==;SharedAccessSignature=sig=a",
                E::Conflict {
                    first: ACCOUNT_KEY,
                    second: SAS,
                },
            ),
            (
                "UseDevelopmentStorage=true;AccountName=a",
                E::Conflict {
                    first: DEVELOPMENT,
                    second: ACCOUNT_NAME,
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        for (text, field) in [
            ("AccountName=a;AccountKey=not base64", ACCOUNT_KEY),
            ("AccountName=a.evil/;AccountKey=YQ==", ACCOUNT_NAME),
            (
                "AccountName=a;AccountKey=YQ==;EndpointSuffix=x/y",
                ENDPOINT_SUFFIX,
            ),
            (
                "AccountName=a;AccountKey=YQ==;BlobEndpoint=ftp://x",
                BLOB_ENDPOINT,
            ),
            (
                "AccountName=a;AccountKey=YQ==;BlobEndpoint=https://u:p@x",
                BLOB_ENDPOINT,
            ),
            (
                "AccountName=a;AccountKey=YQ==;BlobEndpoint=https://x/?sig=a",
                BLOB_ENDPOINT,
            ),
            ("AccountName=a;SharedAccessSignature=sv=2021-12-02", SAS),
            ("UseDevelopmentStorage=false", DEVELOPMENT),
        ] {
            match parse(text) {
                Err(E::Invalid { field: found, .. }) => assert_eq!(found, field, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn nothing_secret_prints() {
        for text in [
            format!("AccountName=a;AccountKey={KEY}"),
            format!("AccountName=a;SharedAccessSignature=sv=1&sig={KEY}"),
            format!("AccountName=a;AccountKey=!{KEY}"),
            format!("AccountName=a;SharedAccessSignature=nosig{KEY}"),
            format!("AccountName=a;AccountKey=YQ==;BlobEndpoint=https://u:{KEY}@x"),
            format!("AccountName={KEY}/;AccountKey={KEY}"),
            format!("{KEY};AccountName=a"),
        ] {
            let result = parse(&text);
            let shown = match &result {
                Ok(parsed) => format!("{parsed:?} {parsed:#?}"),
                Err(error) => format!("{error:?} {error}"),
            };
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(
            text in "(AccountName|AccountKey|BlobEndpoint|EndpointSuffix|SharedAccessSignature|UseDevelopmentStorage)=.{0,40}(;(AccountName|AccountKey|BlobEndpoint|EndpointSuffix)=.{0,40}){0,3}"
        ) {
            let _ = parse(&text);
        }
    }
}
