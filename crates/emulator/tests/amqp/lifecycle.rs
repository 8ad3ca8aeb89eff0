//! Start, stop, faults and time.

use std::time::Duration;

use eventhubs_emulator::Emulator;
use fe2o3_amqp::{Connection, Session};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tokio::time::timeout;

use super::support::{Client, PATIENCE, Reading, annotation, emulator, is_silent, receive, text};

#[tokio::test]
async fn faults_reach_what_is_connected() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut zero = client.receiver("0", Reading::default()).await;
    let reading = Reading {
        name: "one",
        ..Reading::default()
    };
    let mut one = client.receiver("1", reading).await;
    let faults = emulator.faults();
    faults.detach_receivers("hub", Some("0"), "amqp:link:detach-forced", "idle");
    let error = timeout(PATIENCE, zero.recv::<Body<Value>>()).await.unwrap();
    assert!(format!("{error:?}").contains("DetachForced"), "{error:?}");
    emulator.send("hub", Some("1"), "x").unwrap();
    assert_eq!(text(&receive(&mut one).await), "x");

    faults.refuse_attaches("hub", Some("0"), "com.microsoft:server-busy", "busy", 1);
    let error = client.refusal("0", Reading::default()).await;
    assert!(error.contains("server-busy"), "{error}");
    let reading = Reading {
        name: "again",
        ..Reading::default()
    };
    client.receiver("0", reading).await;

    faults.end_sessions("amqp:internal-error", "gone");
    let error = timeout(PATIENCE, one.recv::<Body<Value>>()).await.unwrap();
    assert!(error.is_err());
    assert_eq!(emulator.receiver_count("hub", "1").unwrap(), 0);
}

#[tokio::test]
async fn frozen_connections_keep_their_sockets_and_go_on_later() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    emulator.faults().freeze_connections(true);
    emulator.send("hub", Some("0"), "late").unwrap();
    assert!(is_silent(&mut receiver).await);
    assert_eq!(emulator.connection_count(), 1);
    emulator.faults().freeze_connections(false);
    assert_eq!(text(&receive(&mut receiver).await), "late");
}

#[tokio::test]
async fn a_port_in_use_is_told_as_such() {
    let emulator = emulator().await;
    let port = emulator.amqp_addr().port();
    let error = Emulator::builder()
        .with_amqp_port(port)
        .start()
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        eventhubs_emulator::StartError::AddressInUse { .. }
    ));
}

#[tokio::test]
async fn stopping_closes_connections_with_a_reason() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    emulator.stop().await;
    let end = timeout(PATIENCE, receiver.recv::<Body<Value>>()).await;
    assert!(end.unwrap().is_err());
    let error = timeout(PATIENCE, client.connection.on_close())
        .await
        .unwrap();
    assert!(
        format!("{error:?}").contains("ConnectionForced"),
        "{error:?}"
    );
}

#[tokio::test]
async fn dropping_it_is_a_crash() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let address = emulator.amqp_addr();
    drop(emulator);
    let end = timeout(PATIENCE, client.connection.on_close())
        .await
        .unwrap();
    assert!(end.is_err());
    let again = tokio::net::TcpStream::connect(address).await;
    assert!(again.is_err());
}

#[tokio::test(start_paused = true)]
async fn hours_pass_in_no_time_when_the_clock_is_driven() {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_driven_time(true)
        .start()
        .await
        .unwrap();
    let mut connection = Connection::builder()
        .container_id("test")
        .open_with_stream(emulator.connect())
        .await
        .unwrap();
    let session = Session::begin(&mut connection).await.unwrap();
    let mut client = Client {
        connection,
        session,
    };
    let mut receiver = client.receiver("0", Reading::default()).await;
    let mut times = Vec::new();
    for n in 0..3 {
        let sent = emulator.send("hub", Some("0"), &*format!("{n}")).unwrap();
        assert_eq!(sent.sequence_number, n);
        let delivery = receiver.recv::<Body<Value>>().await.unwrap();
        let Value::Timestamp(time) = annotation(&delivery, "x-opt-enqueued-time") else {
            panic!("time");
        };
        times.push(time.milliseconds());
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert!(times[1] - times[0] >= 3_600_000 && times[2] - times[1] < 3_700_000);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn idle_links_and_then_their_connection_are_ended() {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_driven_time(true)
        .with_idle_rules(true)
        .start()
        .await
        .unwrap();
    let mut connection = Connection::builder()
        .container_id("test")
        .open_with_stream(emulator.connect())
        .await
        .unwrap();
    let session = Session::begin(&mut connection).await.unwrap();
    let mut client = Client {
        connection,
        session,
    };
    let mut receiver = client.receiver("0", Reading::default()).await;
    tokio::time::sleep(Duration::from_secs(20 * 60)).await;
    emulator.send("hub", Some("0"), "x").unwrap();
    assert_eq!(text(&receive(&mut receiver).await), "x");
    tokio::time::sleep(Duration::from_secs(29 * 60)).await;
    assert_eq!(emulator.receiver_count("hub", "0").unwrap(), 1);
    let error = receiver.recv::<Body<Value>>().await.unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("Idle timeout: 00:30:00"), "{error}");
    drop(receiver);
    tokio::time::sleep(Duration::from_secs(4 * 60)).await;
    assert_eq!(emulator.connection_count(), 1);
    let error = client.connection.on_close().await.unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("300000 milliseconds"), "{error}");
}
