//! Tokens for `$cbs`, from whatever credential there is.

use std::time::SystemTime;

use tokio::time::timeout;

use crate::credential::renewal::MINT_TIMEOUT;
use crate::credential::{
    CredentialKind, EventHubsCredential, IssuerRefusal, Secret, SharedAccessSignature,
};
use crate::error::{BoxError, TransportError, TransportErrorKind};

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
    /// Which of the credential's keys it is from.
    pub(super) version: u64,
}

impl Token {
    fn signature(signature: SharedAccessSignature, renewable: bool, version: u64) -> Self {
        Self {
            text: signature.text,
            kind: "servicebus.windows.net:sastoken",
            expires_at: signature.expires_at,
            renewable,
            version,
        }
    }
}

/// Asks the credential for a token about `audience`. Takes 30 s at most.
pub(super) async fn mint(
    credential: &EventHubsCredential,
    audience: &str,
) -> Result<Token, TransportError> {
    let now = SystemTime::now();
    let token = match &credential.0 {
        CredentialKind::SharedAccessKey(key) => {
            let current = key.current();
            Token::signature(current.key.sign(audience, now), true, current.version)
        }
        CredentialKind::SharedAccessSignature(signature) => {
            Token::signature(signature.clone(), false, 0)
        }
        CredentialKind::RenewableSignature(source) => {
            let minted = source.mint(audience.to_owned());
            let minted = within("the signature callback", minted).await?;
            let signature = SharedAccessSignature::parse(minted).map_err(|error| {
                let kind = TransportErrorKind::Unauthorized;
                TransportError::new(kind, "the signature callback").with_source(error)
            })?;
            Token::signature(signature, true, 0)
        }
        CredentialKind::Token(source) => {
            let token = within("the token credential", source.token(SCOPE)).await?;
            Token {
                text: token.token,
                kind: "jwt",
                expires_at: token.expires_at,
                renewable: true,
                version: 0,
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

/// Waits for what code of the application gives.
async fn within<T>(
    whose: &str,
    answer: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, TransportError> {
    let unavailable = TransportErrorKind::CredentialUnavailable;
    match timeout(MINT_TIMEOUT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.is::<IssuerRefusal>() => {
            Err(TransportError::new(TransportErrorKind::Unauthorized, whose).with_source(error))
        }
        Ok(Err(error)) => Err(TransportError::new(unavailable, whose).with_source(error)),
        Err(_) => Err(TransportError::new(
            unavailable,
            format!("{whose} took longer than {MINT_TIMEOUT:?}"),
        )),
    }
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

    #[tokio::test(start_paused = true)]
    async fn what_the_callback_does_decides_whether_it_may_pass() {
        let told = async |answer: fn() -> Result<Secret, BoxError>| {
            let credential = EventHubsCredential::renewable_signature(move |resource| {
                assert_eq!(resource, "sb://h/hub");
                std::future::ready(answer())
            });
            let error = mint(&credential, "sb://h/hub").await.map(drop).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary"), "{shown}");
            (error.kind(), error.is_transient())
        };
        let unavailable = (TransportErrorKind::CredentialUnavailable, true);
        let refused = (TransportErrorKind::Unauthorized, false);
        assert_eq!(told(|| Err("down".into())).await, unavailable);
        assert_eq!(
            told(|| Err(IssuerRefusal::new("unknown application").into())).await,
            refused
        );
        assert_eq!(told(|| Ok("sig=canary".into())).await, refused);
        let hangs = EventHubsCredential::renewable_signature(|_| std::future::pending());
        let error = mint(&hangs, "sb://h/hub").await.map(drop).unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::CredentialUnavailable);
        assert!(error.to_string().contains("30s"), "{error}");
    }
}
