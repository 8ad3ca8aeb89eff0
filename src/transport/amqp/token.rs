//! Tokens for `$cbs`, from whatever credential there is.

use std::time::SystemTime;

use crate::credential::{CredentialKind, EventHubsCredential, Secret};
use crate::error::{TransportError, TransportErrorKind};

/// PROTOCOL: what tokens of Entra ID must be issued for; the doubled slash is no slip.
const SCOPE: &str = "https://eventhubs.azure.net//.default";

/// A token as it goes to the service.
pub(super) struct Token {
    pub(super) text: Secret,
    /// Name of its kind on the wire.
    pub(super) kind: &'static str,
    pub(super) expires_at: SystemTime,
    /// Whether asking again gives a newer one.
    pub(super) renewable: bool,
}

/// Asks the credential for a token about `audience`.
pub(super) async fn mint(
    credential: &EventHubsCredential,
    audience: &str,
) -> Result<Token, TransportError> {
    const SAS: &str = "servicebus.windows.net:sastoken";
    let now = SystemTime::now();
    let token = match &credential.0 {
        CredentialKind::SharedAccessKey(key) => {
            let signature = key.sign(audience, now);
            Token {
                text: signature.text,
                kind: SAS,
                expires_at: signature.expires_at,
                renewable: true,
            }
        }
        CredentialKind::SharedAccessSignature(signature) => Token {
            text: signature.text.clone(),
            kind: SAS,
            expires_at: signature.expires_at,
            renewable: false,
        },
        CredentialKind::Token(source) => {
            let token = source.token(SCOPE).await.map_err(|error| {
                TransportError::new(
                    TransportErrorKind::Unauthorized,
                    "the token credential gave no token",
                )
                .with_source(error)
            })?;
            Token {
                text: token.token,
                kind: "jwt",
                expires_at: token.expires_at,
                renewable: true,
            }
        }
    };
    if token.expires_at <= now {
        return Err(TransportError::new(
            TransportErrorKind::Unauthorized,
            "the token or signature has expired",
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_expired_signature_is_not_sent() {
        let text = "SharedAccessSignature sr=a&sig=canary&se=1000&skn=n";
        let credential = EventHubsCredential::shared_access_signature(text).unwrap();
        let error = mint(&credential, "sb://h/hub").await.map(drop).unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Unauthorized);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[tokio::test]
    async fn a_key_signs_for_the_audience_alone() {
        let credential = EventHubsCredential::shared_access_key("listen", "key");
        let token = mint(&credential, "sb://h/hub/ConsumerGroups/g")
            .await
            .unwrap();
        assert!(
            token
                .text
                .expose()
                .starts_with("SharedAccessSignature sr=sb%3A%2F%2Fh%2Fhub%2FConsumerGroups%2Fg&")
        );
        assert!(token.expires_at <= SystemTime::now() + Duration::from_secs(3600));
    }
}
