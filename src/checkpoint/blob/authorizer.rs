//! Puts the credential on requests, whichever client library sends them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use url::Url;

use super::failure::{Class, Failure};
use super::kept::{Fresh, Kept, Unavailable};
use super::shared_key::SharedKey;
use crate::credential::{
    ConnectionStringError, IssuerRefusal, NamedKeyCredential, Secret, StorageCredential,
    StorageCredentialKind, StorageSignature,
};
use crate::error::{BoxError, LastError, StoreErrorKind};

/// PROTOCOL: what the storage service is called where tokens are issued.
const SCOPE: &str = "https://storage.azure.com/.default";

/// The headers of a request, with their names in lower case.
pub(super) type Headers = Vec<(String, String)>;

/// How requests prove themselves. Shows no secret.
pub(super) enum Authorizer {
    Key(NamedKeyCredential),
    Signature(StorageSignature),
    RenewableSignature(Kept),
    Token(Kept),
}

impl Authorizer {
    /// `container_url` is what signatures are asked for.
    pub(super) fn new(
        credential: StorageCredential,
        container_url: &Url,
    ) -> Result<Self, ConnectionStringError> {
        credential.check()?;
        Ok(match credential.0 {
            StorageCredentialKind::AccountKey(key) => Self::Key(key),
            StorageCredentialKind::SharedAccessSignature(signature) => Self::Signature(signature),
            StorageCredentialKind::RenewableSignature(source) => {
                let url = container_url.to_string();
                Self::RenewableSignature(Kept::new(move || {
                    let minted = source.mint(url.clone());
                    async move { signature(&minted.await.map_err(unavailable)?) }.boxed()
                }))
            }
            StorageCredentialKind::Token(source) => Self::Token(Kept::new(move || {
                let source = Arc::clone(&source);
                async move {
                    let token = source.token(SCOPE).await.map_err(unavailable)?;
                    Ok(Fresh {
                        text: token.token,
                        expires_at: Some(token.expires_at),
                    })
                }
                .boxed()
            })),
        })
    }

    /// Dates the request and adds the credential.
    pub(super) async fn authorize(
        &self,
        method: &str,
        url: &mut Url,
        headers: &mut Headers,
    ) -> Result<(), Failure> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        set(headers, "x-ms-date", date);
        match self {
            Self::Key(key) => {
                let current = key.current().key;
                let key = SharedKey::new(current.name(), current.key())
                    .map_err(|error| unauthorized(error.to_string()))?;
                let pairs = headers.iter().map(|(name, value)| (&**name, &**value));
                let authorization = key.authorization(method, pairs, url);
                set(headers, "authorization", authorization);
            }
            Self::Signature(signature) => {
                let now = SystemTime::now();
                if signature.expires_at().is_some_and(|end| end <= now) {
                    return Err(unauthorized("the shared access signature has expired"));
                }
                append(url, signature.text());
            }
            Self::RenewableSignature(kept) => append(url, &kept.get().await?),
            Self::Token(kept) => {
                let token = kept.get().await?;
                let bearer = format!("Bearer {}", token.expose());
                set(headers, "authorization", bearer);
            }
        }
        Ok(())
    }

    /// Why the credential gave nothing the last time that it was asked, if it did not.
    pub(super) fn trouble(&self) -> Option<LastError> {
        match self {
            Self::RenewableSignature(kept) | Self::Token(kept) => kept.trouble(),
            Self::Key(_) | Self::Signature(_) => None,
        }
    }

    /// Tells what the service answered: after a refusal the credential is asked for another one.
    pub(super) fn answered(&self, status: u16) {
        if let (401 | 403, Self::RenewableSignature(kept) | Self::Token(kept)) = (status, self) {
            kept.refused();
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Authorizer(account key)",
            Self::Signature(_) => "Authorizer(signature)",
            Self::RenewableSignature(_) => "Authorizer(renewable signature)",
            Self::Token(_) => "Authorizer(token)",
        })
    }
}

/// Replaces a header or adds it.
pub(super) fn set(headers: &mut Headers, name: &str, value: String) {
    headers.retain(|(other, _)| other != name);
    headers.push((name.to_owned(), value));
}

fn append(url: &mut Url, signature: &Secret) {
    let signature = signature.expose();
    let query = match url.query() {
        None | Some("") => signature.to_owned(),
        Some(query) => format!("{query}&{signature}"),
    };
    url.set_query(Some(&query));
}

/// What a callback returned, if it is a signature.
fn signature(text: &Secret) -> Result<Fresh, Unavailable> {
    let signature = StorageSignature::new(text);
    signature.check().map_err(|error| Unavailable {
        is_refusal: true,
        error: error.into(),
    })?;
    Ok(Fresh {
        text: signature.text().clone(),
        expires_at: signature.expires_at(),
    })
}

fn unavailable(error: BoxError) -> Unavailable {
    Unavailable {
        is_refusal: error.is::<IssuerRefusal>(),
        error,
    }
}

fn unauthorized(detail: impl Into<String>) -> Failure {
    Failure::new(Class::Refused, StoreErrorKind::Unauthorized, detail)
}
