//! Shared access signatures and bearer tokens, checked only if a key is configured.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha2::Sha256;
use thiserror::Error;

use super::address::resource_path;
use super::limits::MAX_GRANTS;
use crate::broker::{Clock, lock};
use crate::issuer::{EVENT_HUBS, Issuer, TokenError};

/// Shared access keys by name. None means that every token is good.
#[derive(Default)]
pub(crate) struct Keys {
    keys: Mutex<HashMap<String, String>>,
    is_checking: bool,
    /// Whose bearer tokens are good as well.
    issuer: Issuer,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = lock(&self.keys);
        f.debug_tuple("Keys").field(&keys.keys()).finish()
    }
}

/// Why a token is not taken. The texts name no part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum SasError {
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    #[error("InvalidSignature: The token has an invalid signature.")]
    InvalidSignature,
    #[error("MalformedToken: The token is not a shared access signature.")]
    Malformed,
    #[error("InvalidAudience: The token does not cover the requested resource.")]
    WrongAudience,
    #[error(transparent)]
    Token(#[from] TokenError),
}

const PREFIX: &str = "SharedAccessSignature ";

impl Keys {
    #[cfg(any(test, feature = "unstable-fuzz"))]
    pub(crate) fn new(keys: HashMap<String, String>) -> Self {
        Self::with_issuer(keys, Issuer::default())
    }

    pub(crate) fn with_issuer(keys: HashMap<String, String>, issuer: Issuer) -> Self {
        Self {
            is_checking: !keys.is_empty(),
            keys: Mutex::new(keys),
            issuer,
        }
    }

    pub(crate) fn is_checking(&self) -> bool {
        self.is_checking
    }

    pub(crate) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Adds a key or replaces it. What was granted before is not touched.
    pub(crate) fn set(&self, name: &str, key: &str) {
        lock(&self.keys).insert(name.to_owned(), key.to_owned());
    }

    /// Checks a token for an audience and returns the Unix second at which it ends.
    pub(crate) fn check(&self, token: &str, audience: &str, now_s: i64) -> Result<i64, SasError> {
        let Some(fields) = token.strip_prefix(PREFIX) else {
            // PROTOCOL: what a bearer token opens say roles, which there are none of here.
            return Ok(self.issuer.check(token, EVENT_HUBS, now_s)?);
        };
        let mut parts: HashMap<&str, &str> = fields
            .split('&')
            .filter_map(|part| part.split_once('='))
            .collect();
        let mut take = |name| parts.remove(name).ok_or(SasError::Malformed);
        let (resource, signature, expiry) = (take("sr")?, take("sig")?, take("se")?);
        let key_name = decoded(take("skn")?);
        let keys = lock(&self.keys);
        let key = keys.get(&key_name).ok_or(SasError::InvalidSignature)?;
        let given = STANDARD
            .decode(decoded(signature))
            .map_err(|_| SasError::InvalidSignature)?;
        // PROTOCOL: the key is used as text, not decoded, and the resource as it was received:
        // SDKs differ in the case of its percent encoding.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(key.as_bytes()).map_err(|_| SasError::Malformed)?;
        mac.update(resource.as_bytes());
        mac.update(b"\n");
        mac.update(expiry.as_bytes());
        mac.verify_slice(&given)
            .map_err(|_| SasError::InvalidSignature)?;
        let expiry_s: i64 = expiry.parse().map_err(|_| SasError::Malformed)?;
        if expiry_s <= now_s {
            return Err(SasError::Expired);
        }
        if !covers(&resource_path(&decoded(resource)), &resource_path(audience)) {
            return Err(SasError::WrongAudience);
        }
        Ok(expiry_s)
    }
}

/// The Unix second now. Tokens are made by clients, for which only wall time counts.
pub(crate) fn now_s() -> i64 {
    Clock::Wall.now_ms() / 1000
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// True if the resource is the path or below it. Scheme, host and case do not matter.
/// INTEROP: Rust signs the hub and asks for partitions of it.
fn covers(path: &str, resource: &str) -> bool {
    let mut wanted = resource.split('/').filter(|s| !s.is_empty());
    path.split('/').filter(|s| !s.is_empty()).all(|segment| {
        wanted
            .next()
            .is_some_and(|other| other.eq_ignore_ascii_case(segment))
    })
}

/// What a connection may reach.
#[derive(Debug, Default)]
pub(crate) struct Grants(HashMap<String, i64>);

impl Grants {
    /// Notes that an audience is open until a Unix second.
    pub(crate) fn add(&mut self, audience: &str, expiry_s: i64, now_s: i64) {
        if self.0.len() >= MAX_GRANTS {
            self.0.retain(|_, expiry| *expiry > now_s);
        }
        if self.0.len() < MAX_GRANTS {
            self.0.insert(grant_path(audience), expiry_s);
        }
    }

    pub(crate) fn covers(&self, resource: &str, now_s: i64) -> bool {
        self.0
            .iter()
            .any(|(path, expiry)| *expiry > now_s && covers(path, resource))
    }
}

/// INTEROP: Rust's consumers ask for `…/ConsumerGroups/$Default/$management`.
fn grant_path(audience: &str) -> String {
    resource_path(audience).to_lowercase()
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    fn keys() -> Keys {
        Keys::new(HashMap::from([("root".to_owned(), "c2VjcmV0".to_owned())]))
    }

    fn token(key: &str, resource: &str, expiry: i64) -> String {
        let sr = utf8_percent_encode(resource, NON_ALPHANUMERIC)
            .to_string()
            .to_lowercase();
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(format!("{sr}\n{expiry}").as_bytes());
        let sig = STANDARD.encode(mac.finalize().into_bytes());
        let sig = utf8_percent_encode(&sig, NON_ALPHANUMERIC);
        format!("SharedAccessSignature sr={sr}&sig={sig}&se={expiry}&skn=root")
    }

    #[test]
    fn takes_a_good_token_for_its_resource_and_below() {
        let token = token("c2VjcmV0", "sb://localhost/hub", 1000);
        for audience in [
            "sb://localhost/hub",
            "amqps://other:1/HUB/Partitions/0",
            "hub",
        ] {
            assert_eq!(keys().check(&token, audience, 999), Ok(1000), "{audience}");
        }
        assert_eq!(
            keys().check(&token, "sb://localhost/hub2", 0),
            Err(SasError::WrongAudience)
        );
    }

    #[test]
    fn refuses_expired_forged_and_malformed_tokens() {
        let good = token("c2VjcmV0", "sb://localhost/hub", 1000);
        assert_eq!(keys().check(&good, "hub", 1000), Err(SasError::Expired));
        let forged = token("other", "sb://localhost/hub", 1000);
        assert_eq!(
            keys().check(&forged, "hub", 0),
            Err(SasError::InvalidSignature)
        );
        let moved = good.replace("se=1000", "se=2000");
        assert_eq!(
            keys().check(&moved, "hub", 0),
            Err(SasError::InvalidSignature)
        );
        let unknown = good.replace("skn=root", "skn=nobody");
        assert_eq!(
            keys().check(&unknown, "hub", 0),
            Err(SasError::InvalidSignature)
        );
        for text in ["", "eyJhbGciOi"] {
            let forged = SasError::Token(TokenError::InvalidSignature);
            assert_eq!(keys().check(text, "hub", 0), Err(forged), "{text}");
        }
        for text in ["SharedAccessSignature ", "SharedAccessSignature sr=a"] {
            assert_eq!(
                keys().check(text, "hub", 0),
                Err(SasError::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn grants_end_with_their_token() {
        let mut grants = Grants::default();
        grants.add("sb://h/hub/ConsumerGroups/$Default", 10, 0);
        let resource = "hub/consumergroups/$default/Partitions/1";
        assert!(grants.covers(resource, 9));
        assert!(!grants.covers(resource, 10));
        assert!(!grants.covers("hub", 9));
    }
}
