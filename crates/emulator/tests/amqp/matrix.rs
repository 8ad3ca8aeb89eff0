//! Every order of `docs/faults.md` about AMQP, over the control port.

use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{ApplicationProperties, Body, Message, Properties};
use fe2o3_amqp_types::primitives::Value;
use futures_util::{SinkExt, StreamExt, stream};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::control::Control;
use super::network;
use super::support::data;

const LIST: &str = include_str!("../../docs/faults.md");
/// Longer than any answer takes here, and short enough for the ones that never come.
const PATIENCE: Duration = Duration::from_millis(400);

/// The orders of the rows that start with a letter.
fn orders(of: &str) -> Vec<serde_json::Value> {
    LIST.lines()
        .filter(|line| line.starts_with(&format!("| {of}")))
        .flat_map(|line| line.split('`').filter(|text| text.starts_with('{')))
        .map(|text| serde_json::from_str(text).expect(text))
        .collect()
}

/// Does a little of everything a client does; nothing has to succeed.
async fn bustle(emulator: &Emulator) {
    let _ = over_amqp(emulator).await;
    let tls = network::tls(emulator, emulator.tls_addr().unwrap().port(), "localhost");
    let _ = timeout(PATIENCE, tls).await;
    let _ = timeout(PATIENCE, over_web_socket(emulator)).await;
}

async fn over_web_socket(emulator: &Emulator) -> Option<()> {
    let port = emulator.ws_addr().unwrap().port();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = network::request(port, "/$servicebus/websocket", "AMQPWSB10");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .ok()?;
    let hello = tokio_tungstenite::tungstenite::Message::Binary("AMQP\0\x01\0\0".into());
    socket.send(hello).await.ok()?;
    socket.next().await?.ok()?;
    Some(())
}

async fn over_amqp(emulator: &Emulator) -> Option<()> {
    let url = format!("amqp://{}", emulator.amqp_addr());
    let open = Connection::builder()
        .container_id("bustle")
        .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
        .open(&*url);
    let mut connection = timeout(PATIENCE, open).await.ok()?.ok()?;
    let _ = timeout(PATIENCE, over_connection(&mut connection)).await;
    let _ = timeout(PATIENCE, over_links(&mut connection)).await;
    let _ = timeout(PATIENCE, connection.close()).await;
    Some(())
}

/// Asks the two nodes.
async fn over_connection(
    connection: &mut fe2o3_amqp::connection::ConnectionHandle<()>,
) -> Option<()> {
    let mut session = Session::begin(connection).await.ok()?;
    let mut cbs = CbsClient::attach(&mut session).await.ok()?;
    let token = CbsToken::new("anything", "servicebus.windows.net:sastoken", None);
    let put = cbs.put_token("sb://host/hub", token);
    let _ = timeout(PATIENCE / 4, put).await;
    let mut sender = Sender::attach(&mut session, "requests", "$management")
        .await
        .ok()?;
    let mut receiver = Receiver::attach(&mut session, "replies", "$management")
        .await
        .ok()?;
    let properties = ApplicationProperties::builder()
        .insert("operation", "READ")
        .insert("type", "com.microsoft:eventhub")
        .insert("name", "hub");
    let request = Message::builder()
        .properties(Properties::builder().message_id(7_u64).build())
        .application_properties(properties.build())
        .value(Value::Null)
        .build();
    sender.send(request).await.ok()?;
    let _ = timeout(PATIENCE / 4, receiver.recv::<Body<Value>>()).await;
    session.end().await.ok()
}

/// Sends and receives.
async fn over_links(connection: &mut fe2o3_amqp::connection::ConnectionHandle<()>) -> Option<()> {
    let mut session = Session::begin(connection).await.ok()?;
    let mut sender = Sender::attach(&mut session, "sender", "hub/Partitions/0")
        .await
        .ok()?;
    let _ = timeout(PATIENCE / 4, sender.send(data("sent"))).await;
    let address = "hub/ConsumerGroups/$Default/Partitions/0";
    // Unsettled, so that there are dispositions.
    let receiver = Receiver::builder()
        .name("receiver")
        .source(address)
        .sender_settle_mode(SenderSettleMode::Unsettled)
        .attach(&mut session);
    let mut receiver = receiver.await.ok()?;
    for _ in 0..3 {
        let received = timeout(PATIENCE / 4, receiver.recv::<Body<Value>>()).await;
        if let Ok(Ok(delivery)) = received {
            let _ = receiver.accept(&delivery).await;
        }
    }
    let _ = timeout(PATIENCE / 4, receiver.close()).await;
    session.end().await.ok()
}

async fn start() -> Emulator {
    let emulator = Emulator::builder()
        .with_hub("hub", 2)
        .with_tls_port(0)
        .with_ws_port(0)
        .with_geo_replication(true)
        .with_control_port(0)
        .start()
        .await
        .unwrap();
    for _ in 0..4 {
        let event = Event::new(vec![b'x'; 1000]);
        emulator.send("hub", Some("0"), event).unwrap();
    }
    emulator
}

/// The sum of what was counted.
async fn acted(control: &Control) -> u64 {
    let faults = control.get("/faults").await;
    let counts = faults["event_hubs"]["counts"].as_object().unwrap();
    counts.values().filter_map(serde_json::Value::as_u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_the_list_acts() {
    let mut rows = orders("A");
    rows.extend(orders("–"));
    assert!(rows.len() > 55, "{}", rows.len());
    let each = stream::iter(rows).for_each_concurrent(8, |order| async move {
        let emulator = start().await;
        let control = Control::of(&emulator);
        assert_eq!(acted(&control).await, 0);
        let (status, answer) = control.post("/faults", &order).await;
        assert_eq!(status, 200, "{order}: {answer}");
        let acts = async {
            while acted(&control).await == 0 {
                bustle(&emulator).await;
            }
        };
        let in_time = timeout(Duration::from_secs(20), acts).await;
        assert!(in_time.is_ok(), "{order} does not act");
        // And all of it can be taken back.
        control.delete("/faults").await;
        let faults = control.get("/faults").await;
        assert_eq!(faults["event_hubs"]["active"], json!([]), "{order}");
    });
    each.await;
}
