//! Named keys and signatures.

use eventhubs_processor::credential::NamedKeyCredential;

use super::*;

#[tokio::test]
async fn a_key_is_replaced_under_running_receivers() {
    let emulator = emulator().await;
    let key = NamedKeyCredential::new(POLICY, KEY);
    let client = client(&emulator, EventHubsCredential::named_key(key.clone()));
    client.event_hub_properties().await.unwrap();
    let (mut first, mut second) = (
        open(&client, "0").await.unwrap(),
        open(&client, "1").await.unwrap(),
    );
    let before = emulator.amqp_requests();
    assert_eq!((before.tokens_accepted, before.attaches), (2, 2));

    emulator.set_sas_key(POLICY, "another-canary-key");
    key.update(POLICY, "another-canary-key");
    // One for the event hub, one for the consumer group.
    eventually("both tokens are renewed", || {
        emulator.amqp_requests().tokens_accepted == 4
    })
    .await;
    client.event_hub_properties().await.unwrap();
    for (partition, receiver) in [("0", &mut first), ("1", &mut second)] {
        send(&emulator, partition);
        assert_eq!(receive(receiver).await.len(), 1);
    }
    let after = emulator.amqp_requests();
    assert_eq!(
        after.attaches, before.attaches,
        "no receiver was opened anew"
    );
    assert_eq!(after.tokens_refused, 0);
    assert!(client.take_trouble().is_none());
    client.close().await;
}

#[tokio::test]
async fn a_key_that_is_wrong_is_told_once_in_a_while_and_ends_nothing_before_its_time() {
    let emulator = emulator().await;
    let key = NamedKeyCredential::new(POLICY, KEY);
    let client = client(&emulator, EventHubsCredential::named_key(key.clone()));
    let mut receiver = open(&client, "0").await.unwrap();
    key.update(POLICY, "wrong-canary-key");
    eventually("the service has refused it", || {
        emulator.amqp_requests().tokens_refused == 1
    })
    .await;
    for _ in 0..100 {
        let error = open(&client, "1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        assert!(!error.is_transient());
        assert!(!format!("{error:?}").contains("canary"));
    }
    let trouble = client.take_trouble().unwrap();
    assert_eq!(trouble.kind(), Kind::Unauthorized);
    assert!(client.take_trouble().is_none(), "told once");
    let requests = emulator.amqp_requests();
    assert!(requests.tokens_refused <= 3, "{requests:?}");
    send(&emulator, "0");
    assert_eq!(receive(&mut receiver).await.len(), 1);

    key.update(POLICY, KEY);
    open(&client, "1").await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn a_wrong_key_is_one_error_and_one_request() {
    let emulator = emulator().await;
    let credential = EventHubsCredential::shared_access_key(POLICY, "wrong");
    let client = client(&emulator, credential);
    let begun = Instant::now();
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert!(error.to_string().contains("InvalidSignature"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let requests = emulator.amqp_requests();
    assert_eq!(
        (requests.tokens_refused, requests.tokens_accepted),
        (1, 0),
        "{requests:?}"
    );
    assert_eq!(requests.attaches, 0);
    client.close().await;
}

#[tokio::test]
async fn an_expired_signature_is_one_error_and_no_request() {
    let emulator = emulator().await;
    let expired = "SharedAccessSignature sr=a&sig=canary&se=1700000000&skn=listen";
    let credential = EventHubsCredential::shared_access_signature(expired).unwrap();
    let client = client(&emulator, credential);
    for _ in 0..10 {
        let error = open(&client, "0").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        assert!(error.to_string().contains("expired"), "{error}");
    }
    let requests = emulator.amqp_requests();
    assert_eq!(requests, Default::default());
    client.close().await;
}

#[tokio::test]
async fn a_signature_that_nobody_renews_ends_when_it_says() {
    let emulator = emulator().await;
    let signature = sign("sb://localhost/hub", KEY, Duration::from_secs(3));
    let credential = EventHubsCredential::shared_access_signature(signature).unwrap();
    let client = client(&emulator, credential);
    let mut receiver = open(&client, "0").await.unwrap();
    let begun = Instant::now();
    let error = timeout(Duration::from_secs(10), receiver.receive(1));
    let error = error.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert!(begun.elapsed() > Duration::from_secs(1));
    let error = open(&client, "0").await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    client.close().await;
}

#[tokio::test]
async fn signatures_from_a_callback_are_renewed_ahead_of_their_end() {
    let emulator = emulator().await;
    let minted = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&minted);
    let credential = EventHubsCredential::renewable_signature(move |resource| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok(sign(&resource, KEY, Duration::from_secs(8))) }
    });
    let client = client(&emulator, credential);
    let mut receiver = open(&client, "0").await.unwrap();
    for _ in 0..18 {
        send(&emulator, "0");
        assert_eq!(receive(&mut receiver).await.len(), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let minted = minted.load(Ordering::SeqCst);
    assert!((3..=4).contains(&minted), "{minted}");
    assert_eq!(emulator.amqp_requests().attaches, 1);
    client.close().await;
}

/// A renewal is under way nearly always, and the connection is lost ten times a second.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_and_reconnects_get_in_each_others_way_and_go_on() {
    let emulator = emulator().await;
    let key = NamedKeyCredential::new(POLICY, KEY);
    let client = Arc::new(client(
        &emulator,
        EventHubsCredential::named_key(key.clone()),
    ));
    let done = tokio_util::sync::CancellationToken::new();
    let reading = {
        let (client, done) = (Arc::clone(&client), done.clone());
        tokio::spawn(async move {
            let mut succeeded = 0;
            while !done.is_cancelled() {
                // What is under way when the connection goes is lost, but nothing hangs and nothing is refused.
                match timeout(Duration::from_secs(12), client.event_hub_properties()).await {
                    Ok(Ok(_)) => succeeded += 1,
                    Ok(Err(error)) => assert!(error.is_transient(), "{error}"),
                    Err(_) => panic!("an operation hangs"),
                }
            }
            succeeded
        })
    };
    for _ in 0..60 {
        for _ in 0..5 {
            key.update(POLICY, KEY);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        emulator.faults().drop_connections();
    }
    done.cancel();
    let succeeded = reading.await.unwrap();
    assert!(succeeded > 20, "{succeeded}");
    assert_eq!(emulator.amqp_requests().tokens_refused, 0);
    let mut receiver = open(&client, "0").await.unwrap();
    send(&emulator, "0");
    assert_eq!(receive(&mut receiver).await.len(), 1);
    client.close().await;
    eventually("all connections are closed", || {
        emulator.connection_count() == 0
    })
    .await;
}
