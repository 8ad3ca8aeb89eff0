//! AMQP over WebSockets against the emulator.

use std::time::Duration;

use eventhubs_emulator::Event;
use eventhubs_processor::EventPosition;
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::transport::{AmqpTransport, ReceiverOptions, Transport as _};
use tokio::time::timeout;

use super::{HUB, client, emulator, receive, trust, web_sockets};

#[tokio::test]
async fn events_come_and_go_over_a_web_socket() {
    let emulator = emulator().await;
    let port = emulator.wss_addr().unwrap().port();
    let client = client(
        &format!("localhost:{port}"),
        web_sockets().with_tls(trust(&emulator)),
    );
    let large = "y".repeat(300_000);
    let partition = "1".into();
    let mut sender = client.open_sender(Some(&partition)).await.unwrap();
    for _ in 0..20 {
        sender.send(large.clone()).await.unwrap();
    }
    sender.close().await;
    let options = ReceiverOptions::new("$Default", partition, EventPosition::Earliest);
    let mut receiver = client.open_receiver(options).await.unwrap();
    let mut count = 0;
    while count < 20 {
        let events = timeout(Duration::from_secs(10), receiver.receive(20)).await;
        for event in events.unwrap().unwrap() {
            assert!(event.body_as_str() == large);
            count += 1;
        }
    }
    receiver.close().await;
    client.close().await;
}

#[tokio::test]
async fn without_tls_it_reaches_an_emulator_on_this_machine() {
    let emulator = emulator().await;
    let text = format!(
        "{};UseDevelopmentEmulator=true",
        emulator
            .event_hubs_connection_string()
            .replace("UseDevelopmentEmulator=true", "")
            .trim_end_matches(';')
    );
    let address = format!("127.0.0.1:{}", emulator.ws_addr().unwrap().port());
    let options = web_sockets().with_custom_endpoint_address(address);
    let client = AmqpTransport::from_connection_string_with_options(&text, HUB, options).unwrap();
    assert_eq!(receive(&client).await.unwrap(), "x");
    client.close().await;
}

#[tokio::test]
async fn fragments_and_pings_are_no_trouble() {
    let emulator = emulator().await;
    let port = emulator.wss_addr().unwrap().port();
    let client = client(
        &format!("localhost:{port}"),
        web_sockets().with_tls(trust(&emulator)),
    );
    client.event_hub_properties().await.unwrap();
    emulator.faults().fragment_web_sockets(2, u32::MAX);
    assert_eq!(emulator.faults().ping_web_sockets(1000), 1);
    for n in 0..200 {
        let body = format!("{n} {}", "z".repeat(n));
        emulator.send(HUB, Some("1"), Event::new(body)).unwrap();
    }
    let options = ReceiverOptions::new("$Default", "1".into(), EventPosition::Earliest);
    let mut receiver = client.open_receiver(options).await.unwrap();
    let mut count = 0;
    while count < 200 {
        let events = timeout(Duration::from_secs(10), receiver.receive(50)).await;
        for event in events.unwrap().unwrap() {
            assert!(event.body_as_str().starts_with(&format!("{count} ")));
            count += 1;
        }
    }
    client.close().await;
}

#[tokio::test]
async fn a_close_frame_is_a_lost_connection_and_the_next_one_is_good() {
    let emulator = emulator().await;
    let port = emulator.wss_addr().unwrap().port();
    let client = client(
        &format!("localhost:{port}"),
        web_sockets().with_tls(trust(&emulator)),
    );
    let options = ReceiverOptions::new("$Default", "1".into(), EventPosition::Earliest);
    let mut receiver = client.open_receiver(options).await.unwrap();
    assert_eq!(emulator.faults().close_web_sockets(1001, "going away"), 1);
    let error = timeout(Duration::from_secs(10), receiver.receive(1))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
    assert_eq!(receive(&client).await.unwrap(), "x");
    client.close().await;
}

#[tokio::test]
async fn a_refused_upgrade_says_with_which_status() {
    let emulator = emulator().await;
    let port = emulator.wss_addr().unwrap().port();
    for (status, kind) in [
        (403, Kind::Unauthorized),
        (404, Kind::NotFound),
        (503, Kind::ConnectionLost),
    ] {
        emulator.faults().clear();
        emulator.faults().refuse_upgrades(status, 1);
        let client = client(
            &format!("localhost:{port}"),
            web_sockets().with_tls(trust(&emulator)),
        );
        let error = client.event_hub_properties().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains(&format!("HTTP {status}")),
            "{error}"
        );
        client.event_hub_properties().await.unwrap();
        client.close().await;
    }
}
