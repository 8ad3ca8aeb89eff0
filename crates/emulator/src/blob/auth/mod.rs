//! Who may do what: account key signatures and shared access signatures.

mod sas;
mod shared_key;

use std::{fmt, time::SystemTime};

use axum::http::{header::AUTHORIZATION, request::Parts};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{
    errors::{ErrorCode, StorageError},
    request::Target,
};
use crate::issuer::{Issuer, STORAGE};

/// The key of a storage account.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AccountKey(Vec<u8>);

/// The key is not base64.
#[derive(Debug, thiserror::Error)]
#[error("the storage account key is not base64")]
pub(crate) struct InvalidKey(#[from] base64::DecodeError);

impl AccountKey {
    /// Takes the key as portals and connection strings give it.
    pub(crate) fn from_base64(text: &str) -> Result<Self, InvalidKey> {
        Ok(Self(STANDARD.decode(text)?))
    }

    /// Whether `signature` is this key's over `text`; takes equally long for every wrong one.
    fn verifies(&self, text: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return false;
        };
        mac.update(text);
        mac.verify_slice(&signature).is_ok()
    }
}

// A key must not reach a log through its owner's `Debug`.
impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(..)")
    }
}

/// What a request must prove.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate<'a> {
    /// The account of this endpoint.
    pub(crate) account: &'a str,
    /// Its key.
    pub(crate) key: &'a AccountKey,
    /// Whose bearer tokens are good as well.
    pub(crate) issuer: Option<&'a Issuer>,
    /// The time of the service, or `None` when dates are not checked.
    pub(crate) now: Option<SystemTime>,
}

/// What a request that was let through may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// What it asks for, but it may not overwrite a blob.
    CreateOnly,
    /// What it asks for.
    Full,
}

impl Gate<'_> {
    /// Lets a request through, or says why not.
    pub(crate) fn check(&self, parts: &Parts, target: &Target) -> Result<Grant, StorageError> {
        if let Some(header) = parts.headers.get(AUTHORIZATION) {
            let text = header.to_str().unwrap_or_default();
            if let (Some(token), Some(issuer)) = (text.strip_prefix("Bearer "), self.issuer) {
                return self.check_token(token, issuer);
            }
            shared_key::check(self, parts, target, text)?;
            return Ok(Grant::Full);
        }
        if target.query("sig").is_some() {
            return sas::check(self, target);
        }
        Err(ErrorCode::NoAuthenticationInformation.into())
    }

    /// PROTOCOL: what a token opens say roles, which there are none of here.
    fn check_token(&self, token: &str, issuer: &Issuer) -> Result<Grant, StorageError> {
        let now = self.now.unwrap_or(SystemTime::UNIX_EPOCH);
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match issuer.check(token, STORAGE, now_s) {
            Ok(_) => Ok(Grant::Full),
            Err(error) => Err(StorageError::unauthenticated(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
