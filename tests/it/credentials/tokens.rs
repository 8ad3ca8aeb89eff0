//! Bearer tokens.

use super::*;

#[tokio::test]
async fn tokens_are_renewed_and_a_slow_issuer_holds_nobody_up() {
    /// Takes a second and a half for each token but the first two.
    #[derive(Debug)]
    struct Slow(Arc<Issuer>);

    #[async_trait]
    impl TokenCredential for Slow {
        async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
            if self.0.issued() >= 2 {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            self.0.token(scope).await
        }
    }

    let emulator = Arc::new(emulator().await);
    // Renewed after 10.1 to 11.2 s; the emulator counts in whole seconds.
    let issuer = Issuer::new(&emulator, Duration::from_secs(14));
    let slow = Arc::new(Slow(Arc::clone(&issuer)));
    let client = client(&emulator, EventHubsCredential::token(slow));
    let mut receiver = open(&client, "0").await.unwrap();
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(18) {
        let asked = Instant::now();
        client.event_hub_properties().await.unwrap();
        send(&emulator, "0");
        assert_eq!(receive(&mut receiver).await.len(), 1);
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(issuer.issued(), 4);
    let requests = emulator.amqp_requests();
    assert_eq!((requests.attaches, requests.tokens_refused), (1, 0));
    client.close().await;
}

#[tokio::test]
async fn a_token_for_another_service_is_refused_and_not_asked_for_again_and_again() {
    /// Mixes the scopes up.
    #[derive(Debug)]
    struct Mixed(Arc<Issuer>);

    #[async_trait]
    impl TokenCredential for Mixed {
        async fn token(&self, _scope: &str) -> Result<AccessToken, BoxError> {
            self.0.token("https://storage.azure.com/.default").await
        }
    }

    let emulator = Arc::new(emulator().await);
    let issuer = Issuer::new(&emulator, Duration::from_secs(3600));
    let mixed = Arc::new(Mixed(Arc::clone(&issuer)));
    let client = client(&emulator, EventHubsCredential::token(mixed));
    for _ in 0..20 {
        let error = open(&client, "0").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        assert!(error.to_string().contains("another service"), "{error}");
    }
    assert!(issuer.issued() <= 2, "{}", issuer.issued());
    assert!(emulator.amqp_requests().tokens_refused <= 2);
    client.close().await;
}

#[tokio::test]
async fn an_issuer_that_is_down_is_told_and_what_is_open_goes_on_until_the_token_ends() {
    let emulator = Arc::new(emulator().await);
    let issuer = Issuer::new(&emulator, Duration::from_secs(8));
    issuer.fails_from.store(1, Ordering::SeqCst);
    let credential = EventHubsCredential::token(Arc::clone(&issuer) as _);
    let client = client(&emulator, credential);
    let mut receiver = open(&client, "0").await.unwrap();
    let begun = Instant::now();
    let error = timeout(Duration::from_secs(15), receiver.receive(1));
    let error = error.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert!(begun.elapsed() > Duration::from_secs(5));
    let trouble = client.take_trouble().unwrap();
    assert_eq!(trouble.kind(), Kind::CredentialUnavailable, "{trouble}");
    let error = open(&client, "0").await.unwrap_err();
    assert_eq!(error.kind(), Kind::CredentialUnavailable, "{error}");
    assert!(error.is_transient());
    assert!(issuer.issued() <= 4, "{}", issuer.issued());
    client.close().await;
}
