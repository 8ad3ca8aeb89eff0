//! Keys, tokens, and what must never be seen of them.

use super::*;

#[tokio::test]
async fn a_wrong_key_is_unauthorized_and_never_shown() {
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_sas_key("listen", KEY)
        .start()
        .await
        .unwrap();
    let good = client(&emulator);
    good.event_hub_properties().await.unwrap();
    let receiver = good.open_receiver(at("0", EventPosition::Earliest)).await;
    receiver.unwrap().close().await;
    good.close().await;

    let wrong = "wrong-canary-key";
    let text = emulator.event_hubs_connection_string().replace(KEY, wrong);
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap();
    for error in [
        client.event_hub_properties().await.map(drop).unwrap_err(),
        open_error(&client, at("0", EventPosition::Earliest)).await,
    ] {
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        let printed = format!("{error} {error:?} {client:?} {good:?}");
        assert!(
            !printed.contains("canary") && !printed.contains("sig="),
            "{printed}"
        );
    }
    client.close().await;
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_tells_what_happens_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread runs the test, so this sees everything.
    let _guard = tracing::subscriber::set_default(subscriber);
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_sas_key("listen", KEY)
        .start()
        .await
        .unwrap();
    let client = client(&emulator);
    emulator
        .send(HUB, Some("0"), Event::new("canary-body"))
        .unwrap();
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    receive(&mut receiver, 1).await;
    emulator.faults().drop_connections();
    error_of(&mut receiver).await;
    emulator.faults().answer_cbs(401, 1);
    open_error(&client, at("0", EventPosition::Earliest)).await;
    client.event_hub_properties().await.unwrap();
    client.close().await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let frames = [
        "transport::frames: sasl-init connection=",
        "transport::frames: attach connection=",
        "transport::frames: transfer connection=",
        " way=Sent channel=0 bytes=",
        " way=Received channel=",
    ];
    for told in ["connected", "connection lost", "connection closed"]
        .into_iter()
        .chain(frames)
    {
        assert!(text.contains(told), "{told}");
    }
    for line in text.lines() {
        assert!(!line.contains("canary") && !line.contains("sig="), "{line}");
    }
}

#[tokio::test]
async fn a_busy_token_endpoint_is_transient_and_forgotten_afterwards() {
    let (emulator, client) = setup().await;
    emulator.faults().answer_cbs(503, 1);
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::ServerBusy, "{error}");
    client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(emulator.connection_count(), 1);
}

/// Hands out tokens that live a few seconds, and counts them.
#[derive(Debug, Default)]
struct ShortLived {
    issued: AtomicUsize,
    fails_from: usize,
}

#[async_trait]
impl TokenCredential for ShortLived {
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
        assert_eq!(scope, "https://eventhubs.azure.net//.default");
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        if self.fails_from > 0 && number >= self.fails_from {
            return Err("the issuer is down".into());
        }
        Ok(AccessToken {
            token: Secret::new(format!("token-{number}")),
            expires_at: SystemTime::now() + Duration::from_secs(7),
        })
    }
}

/// A client that authorizes with tokens. The public way to that needs TLS, so this one is made of the parts of a
/// connection string whose signature is never used.
fn token_client(emulator: &Emulator, source: Arc<ShortLived>) -> AmqpTransport {
    let text = emulator.event_hubs_connection_string();
    AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options())
        .unwrap()
        .with_credential(EventHubsCredential::token(source))
}

#[tokio::test]
async fn tokens_are_renewed_ahead_of_their_expiry() {
    let emulator = emulator().await;
    let source = Arc::new(ShortLived::default());
    let client = token_client(&emulator, Arc::clone(&source));
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    // 80 % of seven seconds, twice.
    tokio::time::sleep(Duration::from_millis(12_500)).await;
    let issued = source.issued.load(Ordering::SeqCst);
    assert!((3..=4).contains(&issued), "{issued}");
    send(&emulator, "0", 0..1);
    receive(&mut receiver, 1).await;
    client.close().await;
    let issued = source.issued.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(
        source.issued.load(Ordering::SeqCst),
        issued,
        "renewal ended with the client"
    );
}

#[tokio::test]
async fn a_token_that_the_service_no_longer_honours_is_replaced() {
    let emulator = emulator().await;
    let source = Arc::new(ShortLived::default());
    let client = token_client(&emulator, Arc::clone(&source));
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    emulator.faults().detach_receivers(
        HUB,
        Some("0"),
        "amqp:unauthorized-access",
        "Unauthorized access. 'Listen' claim(s) are required to perform this operation.",
    );
    let error = error_of(&mut receiver).await;
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert_eq!(source.issued.load(Ordering::SeqCst), 1);
    let receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(source.issued.load(Ordering::SeqCst), 2);
    receiver.close().await;
    client.close().await;
}

#[tokio::test]
async fn a_failing_token_source_is_reported_and_not_hammered() {
    let emulator = emulator().await;
    let source = Arc::new(ShortLived {
        issued: AtomicUsize::new(0),
        fails_from: 1,
    });
    let client = token_client(&emulator, Arc::clone(&source));
    let _receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(14_000)).await;
    let issued = source.issued.load(Ordering::SeqCst);
    assert!((2..=4).contains(&issued), "{issued}");
    let error = open_error(&client, at("1", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::CredentialUnavailable, "{error}");
    client.close().await;
}
