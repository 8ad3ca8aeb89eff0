//! Bearer tokens as an identity provider would issue them: made and checked with a secret of this emulator.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Audience of tokens for Event Hubs, the doubled slash of the scope left out.
pub(crate) const EVENT_HUBS: &str = "https://eventhubs.azure.net";
/// Audience of tokens for storage accounts.
pub(crate) const STORAGE: &str = "https://storage.azure.com";

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Issues tokens, and knows its own.
#[derive(Clone)]
pub(crate) struct Issuer {
    secret: [u8; 32],
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    exp: i64,
}

/// Why a token is not taken. The texts name no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    #[error("InvalidSignature: The token has an invalid signature.")]
    InvalidSignature,
    #[error("InvalidAudience: The token was issued for another service.")]
    WrongAudience,
}

impl Default for Issuer {
    fn default() -> Self {
        let mut secret = [0; 32];
        for half in secret.chunks_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Self { secret }
    }
}

/// The secret is not shown.
impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer(..)")
    }
}

impl Issuer {
    /// A token for the service that `scope` names.
    pub(crate) fn issue(&self, scope: &str, lifetime: Duration) -> String {
        let end = SystemTime::now() + lifetime;
        let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims {
            aud: audience(scope).to_owned(),
            exp: i64::try_from(end.as_secs()).unwrap_or(i64::MAX),
        };
        let claims = serde_json::to_string(&claims).unwrap_or_default();
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&signed).finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// Checks a token for a service and returns the Unix second at which it ends.
    pub(crate) fn check(&self, token: &str, audience: &str, now_s: i64) -> Result<i64, TokenError> {
        let forged = TokenError::InvalidSignature;
        let (signed, signature) = token.rsplit_once('.').ok_or(forged)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| forged)?;
        self.mac(signed)
            .verify_slice(&signature)
            .map_err(|_| forged)?;
        let (_, claims) = signed.split_once('.').ok_or(forged)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| forged)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| forged)?;
        if claims.aud != audience {
            return Err(TokenError::WrongAudience);
        }
        if claims.exp <= now_s {
            return Err(TokenError::Expired);
        }
        Ok(claims.exp)
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.secret);
        // HMAC takes keys of every length.
        #[allow(clippy::expect_used, reason = "cannot fail")]
        mac.expect("a key of 32 bytes")
            .chain_update(signed.as_bytes())
    }
}

/// `https://eventhubs.azure.net//.default` → `https://eventhubs.azure.net`.
fn audience(scope: &str) -> &str {
    scope
        .strip_suffix("/.default")
        .unwrap_or(scope)
        .trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_tokens_and_no_others() {
        let issuer = Issuer::default();
        let hour = Duration::from_secs(3600);
        let token = issuer.issue("https://eventhubs.azure.net//.default", hour);
        let end = issuer.check(&token, EVENT_HUBS, 0).unwrap();
        assert_eq!(issuer.check(&token, EVENT_HUBS, end - 1), Ok(end));
        assert_eq!(
            issuer.check(&token, EVENT_HUBS, end),
            Err(TokenError::Expired)
        );
        assert_eq!(
            issuer.check(&token, STORAGE, 0),
            Err(TokenError::WrongAudience)
        );
        let forged = Err(TokenError::InvalidSignature);
        assert_eq!(Issuer::default().check(&token, EVENT_HUBS, 0), forged);
        for text in ["", ".", "a.b.c", &token[1..], &token.replace('.', "")] {
            assert_eq!(issuer.check(text, EVENT_HUBS, 0), forged, "{text}");
        }
        let storage = issuer.issue("https://storage.azure.com/.default", hour);
        assert!(issuer.check(&storage, STORAGE, 0).is_ok());
    }
}
