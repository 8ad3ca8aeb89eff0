//! Shared access signatures: minting one from a key, reading the expiry of one minted elsewhere.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;

use super::{ConnectionStringError, Secret};

/// What a minted signature lives: one hour, as those of the Python, JS and Rust SDKs.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// What URIs may carry unescaped (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A shared access policy and its key, or an account and its.
#[derive(Clone, Debug)]
pub(crate) struct NamedKey {
    name: String,
    key: Secret,
}

impl NamedKey {
    pub(crate) fn new(name: impl Into<String>, key: impl Into<Secret>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self) -> &Secret {
        &self.key
    }

    /// Mints a signature for one resource.
    pub(crate) fn sign(&self, resource: &str, now: SystemTime) -> SharedAccessSignature {
        let expires_at = now + LIFETIME;
        let expiry = expires_at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let resource = utf8_percent_encode(resource, ESCAPED).to_string();
        // PROTOCOL: the key is used as text, although it looks like base64.
        let signature = match Hmac::<Sha256>::new_from_slice(self.key.expose().as_bytes()) {
            Ok(mac) => {
                let mac = mac.chain_update(format!("{resource}\n{expiry}"));
                STANDARD.encode(mac.finalize().into_bytes())
            }
            // HMAC takes keys of every length.
            Err(_) => String::new(),
        };
        let text = format!(
            "SharedAccessSignature sr={resource}&sig={}&se={expiry}&skn={}",
            utf8_percent_encode(&signature, ESCAPED),
            utf8_percent_encode(&self.name, ESCAPED),
        );
        SharedAccessSignature {
            text: text.into(),
            expires_at: UNIX_EPOCH + Duration::from_secs(expiry),
        }
    }
}

/// A signature and when it expires.
#[derive(Clone, Debug)]
pub(crate) struct SharedAccessSignature {
    pub(crate) text: Secret,
    pub(crate) expires_at: SystemTime,
}

impl SharedAccessSignature {
    /// Reads `SharedAccessSignature sr=…&sig=…&se=…&skn=…`; the fields may stand in any order.
    pub(crate) fn parse(text: Secret) -> Result<Self, ConnectionStringError> {
        let invalid = |reason| ConnectionStringError::Invalid {
            field: "SharedAccessSignature",
            reason,
        };
        let fields = text
            .expose()
            .strip_prefix("SharedAccessSignature ")
            .ok_or_else(|| invalid("expected `SharedAccessSignature sr=…&sig=…&se=…&skn=…`"))?;
        let field = |name: &str| {
            fields
                .split('&')
                .filter_map(|field| field.trim().split_once('='))
                .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
        };
        if field("sr").is_none() || field("sig").is_none() {
            return Err(invalid("it lacks `sr` or `sig`"));
        }
        let expiry = field("se").ok_or_else(|| invalid("it lacks `se`"))?;
        let expires_at = percent_decode_str(expiry)
            .decode_utf8()
            .ok()
            .and_then(|seconds| seconds.parse().ok())
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .ok_or_else(|| invalid("its `se` is not a number of seconds"))?;
        Ok(Self { text, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn signs_as_the_python_sdk_does() {
        // Reference value computed with Python's hmac, hashlib and urllib.parse.quote_plus.
        let signature = NamedKey::new("RootManageSharedAccessKey", "SAS_KEY_VALUE")
            .sign("sb://localhost/hub", at(1_700_000_000 - 3600));
        assert_eq!(signature.expires_at, at(1_700_000_000));
        assert_eq!(
            signature.text.expose(),
            "SharedAccessSignature sr=sb%3A%2F%2Flocalhost%2Fhub\
             &sig=ChipCjHp9obVQuFPL8dLc1uHnFkDJxHZD3nhKW4AEh4%3D&se=1700000000&skn=RootManageSharedAccessKey"
        );
    }

    #[test]
    fn reads_the_expiry_of_a_foreign_signature() {
        let read = |text: &str| SharedAccessSignature::parse(text.into());
        let signature =
            read("SharedAccessSignature sig=a%3D&se=1700000000&skn=n&sr=sb%3A%2F%2Fh").unwrap();
        assert_eq!(signature.expires_at, at(1_700_000_000));
        for broken in [
            "",
            "sr=a&sig=b&se=1",
            "SharedAccessSignature sr=a&sig=b",
            "SharedAccessSignature sr=a&sig=b&se=soon",
            "SharedAccessSignature sr=a&se=1",
            "SharedAccessSignature sr=a&sig=b&se=-1",
        ] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn what_is_minted_can_be_read(name in "[a-zA-Z+ /]{1,20}", key in ".{0,80}", resource in ".{1,60}", now in 0u64..4_000_000_000) {
            let minted = NamedKey::new(name, key).sign(&resource, at(now));
            let read = SharedAccessSignature::parse(minted.text.clone()).unwrap();
            prop_assert_eq!(read.expires_at, minted.expires_at);
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,200}") {
            let _ = SharedAccessSignature::parse(Secret::new(format!("SharedAccessSignature {text}")));
        }
    }
}
