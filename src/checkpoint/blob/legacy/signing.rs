//! Puts the credential on a request, after the client library has done and logged its part.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use url::Url;

use super::super::failure::Failure;
use super::super::shared_key::SharedKey;
use crate::credential::{
    AccessToken, ConnectionStringError, Secret, StorageCredential, TokenCredential,
};

/// PROTOCOL: what the storage service is called where tokens are issued.
const SCOPE: &str = "https://storage.azure.com/.default";

/// A token is replaced this long before it expires.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The headers of a request, with their names in lower case.
pub(super) type Headers = Vec<(String, String)>;

/// How requests prove themselves.
pub(super) enum Signer {
    Key(SharedKey),
    Signature(Secret),
    Token {
        credential: Arc<dyn TokenCredential>,
        cached: Mutex<Option<AccessToken>>,
    },
}

impl Signer {
    pub(super) fn new(credential: StorageCredential) -> Result<Self, ConnectionStringError> {
        Ok(match credential {
            StorageCredential::AccountKey {
                account_name,
                account_key,
            } => Self::Key(SharedKey::new(account_name, &account_key)?),
            StorageCredential::SharedAccessSignature(signature) => Self::Signature(signature),
            StorageCredential::Token(credential) => Self::Token {
                credential,
                cached: Mutex::default(),
            },
        })
    }

    /// Dates the request and adds the credential.
    pub(super) async fn sign(
        &self,
        method: &str,
        url: &mut Url,
        headers: &mut Headers,
    ) -> Result<(), Failure> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        set(headers, "x-ms-date", date);
        match self {
            Self::Key(key) => {
                let pairs = headers.iter().map(|(name, value)| (&**name, &**value));
                let authorization = key.authorization(method, pairs, url);
                set(headers, "authorization", authorization);
            }
            Self::Signature(signature) => {
                let signature = signature.expose();
                let signature = signature.strip_prefix('?').unwrap_or(signature);
                let query = match url.query() {
                    None | Some("") => signature.to_owned(),
                    Some(query) => format!("{query}&{signature}"),
                };
                url.set_query(Some(&query));
            }
            Self::Token { credential, cached } => {
                let token = token(&**credential, cached).await?;
                set(
                    headers,
                    "authorization",
                    format!("Bearer {}", token.expose()),
                );
            }
        }
        Ok(())
    }
}

/// Replaces a header or adds it.
pub(super) fn set(headers: &mut Headers, name: &str, value: String) {
    headers.retain(|(other, _)| other != name);
    headers.push((name.to_owned(), value));
}

/// The token at hand, or a new one. While the old one is valid, a failure to get a new one is not one of the
/// request.
///
/// The lock is held while a token is fetched: those who wait for it want the same one.
async fn token(
    credential: &dyn TokenCredential,
    cached: &Mutex<Option<AccessToken>>,
) -> Result<Secret, Failure> {
    let mut cached = cached.lock().await;
    let now = SystemTime::now();
    if let Some(known) = &*cached
        && known.expires_at > now + MARGIN
    {
        return Ok(known.token.clone());
    }
    match credential.token(SCOPE).await {
        Ok(fresh) => {
            let token = fresh.token.clone();
            *cached = Some(fresh);
            Ok(token)
        }
        Err(error) => match &*cached {
            Some(known) if known.expires_at > now => {
                tracing::warn!(%error, "no new token for the storage account; the old one is still valid");
                Ok(known.token.clone())
            }
            _ => Err(Failure::unsent(&NoToken(error))),
        },
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no token for the storage account")]
struct NoToken(#[source] crate::error::BoxError);
