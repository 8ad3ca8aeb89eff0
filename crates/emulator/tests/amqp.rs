//! The Event Hubs side, seen by a client that shares no code with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Delivery, Receiver, Sender, Session};
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use fe2o3_amqp_types::definitions::{Fields, SenderSettleMode};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageAnnotations, Outcome, Properties,
    Source,
};
use fe2o3_amqp_types::primitives::{Array, OrderedMap, SimpleValue, Symbol, Value};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

struct Client {
    connection: ConnectionHandle<()>,
    session: SessionHandle<()>,
}

impl Client {
    async fn connect(emulator: &Emulator) -> Self {
        let url = format!("amqp://{}", emulator.amqp_addr());
        let mut connection = Connection::builder()
            .container_id("test")
            .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
            .open(&*url)
            .await
            .unwrap();
        let session = Session::begin(&mut connection).await.unwrap();
        Self {
            connection,
            session,
        }
    }

    async fn receiver(&mut self, partition: &str, options: Reading) -> Receiver {
        self.try_receiver(partition, options).await.unwrap()
    }

    async fn try_receiver(
        &mut self,
        partition: &str,
        options: Reading,
    ) -> Result<Receiver, fe2o3_amqp::link::ReceiverAttachError> {
        let address = format!("hub/ConsumerGroups/$Default/Partitions/{partition}");
        let mut properties = Fields::new();
        if let Some(epoch) = options.epoch {
            properties.insert(Symbol::from("com.microsoft:epoch"), Value::Long(epoch));
        }
        let source = Source::builder()
            .address(address)
            .add_to_filter(Symbol::from(SELECTOR), selector(options.position))
            .build();
        let mut builder = Receiver::builder()
            .name(options.name)
            .source(source)
            .sender_settle_mode(SenderSettleMode::Settled)
            .properties(properties)
            .credit_mode(options.credit);
        if options.metrics {
            let metric = Symbol::from("com.microsoft:enable-receiver-runtime-metric");
            builder = builder.add_desired_capabilities(metric);
        }
        builder.attach(&mut self.session).await
    }

    /// The error of an attach that is refused, on a session of its own: after a refusal the client
    /// may send its detach twice, and the second would meet the next link on the handle.
    async fn refusal(&mut self, partition: &str, options: Reading) -> String {
        let fresh = Session::begin(&mut self.connection).await.unwrap();
        let usual = std::mem::replace(&mut self.session, fresh);
        let error = self.try_receiver(partition, options).await.unwrap_err();
        let _used = std::mem::replace(&mut self.session, usual);
        format!("{error:?}")
    }

    async fn sender(&mut self, address: &str) -> Sender {
        Sender::attach(&mut self.session, "sender", address)
            .await
            .unwrap()
    }

    async fn close(mut self) {
        self.session.end().await.unwrap();
        self.connection.close().await.unwrap();
    }
}

const SELECTOR: &str = "apache.org:selector-filter:string";

fn selector(position: &str) -> Described<Value> {
    Described {
        descriptor: Descriptor::Name(Symbol::from(SELECTOR)),
        value: Value::String(format!("amqp.annotation.{position}")),
    }
}

struct Reading {
    name: &'static str,
    position: &'static str,
    epoch: Option<i64>,
    credit: CreditMode,
    metrics: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            name: "receiver",
            position: "x-opt-offset > '-1'",
            epoch: None,
            credit: CreditMode::Auto(100),
            metrics: false,
        }
    }
}

async fn emulator() -> Emulator {
    Emulator::builder()
        .with_hub("hub", 4)
        .start()
        .await
        .unwrap()
}

type Received = Delivery<Body<Value>>;

async fn receive(receiver: &mut Receiver) -> Received {
    timeout(PATIENCE, receiver.recv())
        .await
        .expect("an event in time")
        .unwrap()
}

async fn is_silent(receiver: &mut Receiver) -> bool {
    let wait = Duration::from_millis(150);
    timeout(wait, receiver.recv::<Body<Value>>()).await.is_err()
}

fn text(delivery: &Received) -> String {
    match delivery.body() {
        Body::Data(batch) => {
            let bytes: Vec<u8> = batch.iter().flat_map(|data| data.0.to_vec()).collect();
            String::from_utf8(bytes).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn annotation<'a>(delivery: &'a Received, name: &str) -> &'a Value {
    let annotations = delivery.message().message_annotations.as_ref().unwrap();
    lookup(&annotations.0, name).unwrap()
}

fn lookup<'a>(map: &'a OrderedMap<OwnedKey, Value>, name: &str) -> Option<&'a Value> {
    let key = OwnedKey::Symbol(Symbol::from(name));
    map.iter().find(|(k, _)| **k == key).map(|(_, value)| value)
}

fn data(text: &str) -> Message<Data> {
    Message::builder()
        .data(Data(text.as_bytes().to_vec().into()))
        .build()
}

#[tokio::test]
async fn what_is_sent_is_received_in_order_with_system_annotations() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/1").await;
    for n in 0..10 {
        let outcome = sender.send(data(&format!("event {n}"))).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
    }
    let mut receiver = client.receiver("1", Reading::default()).await;
    let mut last_offset = 0;
    for n in 0..10_i64 {
        let delivery = receive(&mut receiver).await;
        assert_eq!(text(&delivery), format!("event {n}"));
        assert_eq!(
            annotation(&delivery, "x-opt-sequence-number"),
            &Value::Long(n)
        );
        let Value::String(offset) = annotation(&delivery, "x-opt-offset") else {
            panic!("offset");
        };
        let offset: u64 = offset.parse().unwrap();
        assert!(offset > last_offset && offset != n as u64);
        last_offset = offset;
        assert!(matches!(
            annotation(&delivery, "x-opt-enqueued-time"),
            Value::Timestamp(_)
        ));
        assert!(delivery.message().delivery_annotations.is_none());
    }
    receiver.close().await.unwrap();
    sender.close().await.unwrap();
    client.close().await;
    emulator.stop().await;
}

#[tokio::test]
async fn properties_and_large_bodies_pass_through_unchanged() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/0").await;
    // Many frames in each direction: the client and the server state 64 KiB or less.
    let body = "x".repeat(900_000);
    let message = Message::builder()
        .properties(
            Properties::builder()
                .message_id("id".to_owned())
                .content_type("text/plain")
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder()
                .insert("n", 7_u32)
                .insert("s", SimpleValue::Symbol(Symbol::from("sym")))
                .build(),
        )
        .data(Data(body.clone().into_bytes().into()))
        .build();
    sender.send(message).await.unwrap();
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), body);
    let properties = delivery.message().properties.as_ref().unwrap();
    assert_eq!(
        properties.content_type.as_ref().unwrap().as_str(),
        "text/plain"
    );
    let application = delivery.message().application_properties.as_ref().unwrap();
    assert_eq!(application.0.get("n"), Some(&SimpleValue::Uint(7)));
    assert_eq!(
        application.0.get("s"),
        Some(&SimpleValue::Symbol(Symbol::from("sym")))
    );
}

#[tokio::test]
async fn a_message_of_the_largest_size_passes() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub").await;
    let body = vec![0_u8; 1024 * 1024 - 8];
    let message = Message::builder().data(Data(body.into())).build();
    let outcome = sender.send(message).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
}

#[tokio::test]
async fn credit_is_honoured_exactly() {
    let emulator = emulator().await;
    for n in 0..10 {
        emulator
            .send("hub", Some("0"), Event::new(format!("{n}")))
            .unwrap();
    }
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Manual,
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    assert!(is_silent(&mut receiver).await);
    receiver.set_credit(3).await.unwrap();
    for _ in 0..3 {
        receive(&mut receiver).await;
    }
    assert!(is_silent(&mut receiver).await);
    receiver.set_credit(1).await.unwrap();
    assert_eq!(text(&receive(&mut receiver).await), "3");
    assert!(is_silent(&mut receiver).await);
}

#[tokio::test]
async fn a_waiting_receiver_gets_new_events_at_once() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        position: "x-opt-offset > '@latest'",
        metrics: true,
        ..Reading::default()
    };
    emulator.send("hub", Some("2"), "before").unwrap();
    let mut receiver = client.receiver("2", reading).await;
    let sent = emulator.send("hub", Some("2"), "after").unwrap();
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), "after");
    let annotations = delivery.message().delivery_annotations.as_ref().unwrap();
    let last = lookup(&annotations.0, "last_enqueued_sequence_number");
    assert_eq!(last, Some(&Value::Long(sent.sequence_number)));
    let offset = lookup(&annotations.0, "last_enqueued_offset");
    assert_eq!(offset, Some(&Value::String(sent.offset)));
}

#[tokio::test]
async fn each_kind_of_position_starts_where_it_says() {
    let emulator = emulator().await;
    let sent: Vec<_> = (0..5)
        .map(|n| emulator.send("hub", Some("0"), &*format!("{n}")).unwrap())
        .collect();
    let offset = sent[2].offset.clone();
    for (position, first) in [
        ("x-opt-offset > '-1'".to_owned(), "0"),
        (format!("x-opt-offset > '{offset}'"), "3"),
        (format!("x-opt-offset >= '{offset}'"), "2"),
        (format!("x-opt-offset > {offset}"), "3"),
        ("x-opt-sequence-number > '2'".to_owned(), "3"),
        ("x-opt-sequence-number >= '2'".to_owned(), "2"),
        ("x-opt-enqueued-time > '0'".to_owned(), "0"),
    ] {
        let mut client = Client::connect(&emulator).await;
        let reading = Reading {
            position: position.clone().leak(),
            ..Reading::default()
        };
        let mut receiver = client.receiver("0", reading).await;
        assert_eq!(text(&receive(&mut receiver).await), first, "{position}");
        client.close().await;
    }
}

#[tokio::test]
async fn an_impossible_attach_is_refused_with_the_service_s_condition() {
    let emulator = emulator().await;
    emulator.send("hub", Some("0"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    for (partition, position, condition) in [
        (
            "9",
            "x-opt-offset > '-1'",
            "com.microsoft:argument-out-of-range",
        ),
        (
            "00",
            "x-opt-offset > '-1'",
            "com.microsoft:argument-out-of-range",
        ),
        (
            "0",
            "x-opt-sequence-number > '99'",
            "com.microsoft:argument-error",
        ),
        (
            "0",
            "x-opt-offset > '99999999999'",
            "com.microsoft:argument-error",
        ),
        ("0", "x-opt-offset > 'abc'", "com.microsoft:argument-error"),
        ("0", "no selector", "com.microsoft:argument-error"),
    ] {
        let reading = Reading {
            position,
            ..Reading::default()
        };
        let error = client.refusal(partition, reading).await;
        assert!(error.contains(condition), "{error}");
    }
    let error = Receiver::attach(
        &mut client.session,
        "r",
        "nohub/ConsumerGroups/$Default/Partitions/0",
    )
    .await
    .unwrap_err();
    assert!(format!("{error:?}").contains("NotFound"), "{error:?}");
}

#[tokio::test]
async fn owner_levels_decide_who_reads() {
    let emulator = emulator().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(&emulator).await);
    }
    let at_level = |epoch| Reading {
        epoch,
        ..Reading::default()
    };
    let mut first = clients[0].receiver("0", at_level(Some(1))).await;
    for epoch in [None, Some(0)] {
        let error = clients[1].refusal("0", at_level(epoch)).await;
        assert!(error.contains("Stolen"), "{error}");
    }
    let mut second = clients[2].receiver("0", at_level(Some(1))).await;
    let error = timeout(PATIENCE, first.recv::<Body<Value>>())
        .await
        .unwrap()
        .unwrap_err();
    assert!(format!("{error:?}").contains("Stolen"), "{error:?}");
    emulator.send("hub", Some("0"), "x").unwrap();
    assert_eq!(text(&receive(&mut second).await), "x");
    assert_eq!(emulator.receiver_count("hub", "0").unwrap(), 1);

    // A connection that breaks frees its place and its level.
    drop(second);
    emulator.faults().drop_connections();
    while emulator.connection_count() > 0 {
        tokio::task::yield_now().await;
    }
    let mut again = Client::connect(&emulator).await;
    let mut receiver = again.receiver("0", at_level(None)).await;
    assert_eq!(text(&receive(&mut receiver).await), "x");
}

#[tokio::test]
async fn a_sixth_receiver_without_a_level_is_refused() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receivers = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let reading = Reading {
            name,
            ..Reading::default()
        };
        receivers.push(client.receiver("0", reading).await);
    }
    let reading = Reading {
        name: "f",
        ..Reading::default()
    };
    let error = client.refusal("0", reading).await;
    assert!(error.contains("ResourceLimit"), "{error}");
    emulator.send("hub", Some("0"), "to all").unwrap();
    for receiver in &mut receivers {
        assert_eq!(text(&receive(receiver).await), "to all");
    }
}

#[tokio::test]
async fn keyed_messages_go_to_the_partition_of_the_hash() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("amqps://host:1/hub").await;
    for (key, partition) in [("7", "3"), ("131", "2"), ("FWfAT", "1")] {
        let before = emulator.partition_properties("hub", partition).unwrap();
        let message = Message::builder()
            .message_annotations(
                MessageAnnotations::builder()
                    .insert(Symbol::from("x-opt-partition-key"), key)
                    .build(),
            )
            .data(Data(vec![1].into()))
            .build();
        sender.send(message).await.unwrap();
        let after = emulator.partition_properties("hub", partition).unwrap();
        assert_eq!(
            after.last_enqueued_sequence_number,
            before.last_enqueued_sequence_number + 1
        );
    }
}

#[tokio::test]
async fn put_token_answers_as_the_fault_says_and_otherwise_accepts() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut cbs = CbsClient::attach(&mut client.session).await.unwrap();
    let token = || CbsToken::new("anything", "servicebus.windows.net:sastoken", None);
    cbs.put_token("sb://host/hub", token()).await.unwrap();
    emulator.faults().answer_cbs(401, 1);
    let error = cbs.put_token("sb://host/hub", token()).await.unwrap_err();
    assert!(format!("{error:?}").contains("401"), "{error:?}");
    cbs.put_token("sb://host/hub", token()).await.unwrap();
}

#[tokio::test]
async fn management_describes_hub_and_partitions() {
    let emulator = emulator().await;
    let sent = emulator.send("hub", Some("3"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    let hub = read(&mut client, "com.microsoft:eventhub", None).await;
    let ids = Array(
        ["0", "1", "2", "3"]
            .map(|id| Value::String(id.to_owned()))
            .to_vec(),
    );
    assert_eq!(hub["partition_ids"], Value::Array(ids));
    assert_eq!(hub["name"], Value::String("hub".to_owned()));
    assert_eq!(hub["partition_count"], Value::Int(4));
    let partition = read(&mut client, "com.microsoft:partition", Some("3")).await;
    assert_eq!(partition["last_enqueued_sequence_number"], Value::Long(0));
    assert_eq!(
        partition["last_enqueued_offset"],
        Value::String(sent.offset)
    );
    assert_eq!(partition["is_partition_empty"], Value::Bool(false));
}

/// One READ through plain links, so that the reply is seen as it is.
async fn read(
    client: &mut Client,
    kind: &str,
    partition: Option<&str>,
) -> std::collections::BTreeMap<String, Value> {
    let mut sender = Sender::attach(&mut client.session, format!("s{kind}"), "$management")
        .await
        .unwrap();
    let mut receiver = Receiver::attach(&mut client.session, format!("r{kind}"), "$management")
        .await
        .unwrap();
    let mut properties = ApplicationProperties::builder()
        .insert("operation", "READ")
        .insert("type", kind)
        .insert("name", "HUB");
    if let Some(id) = partition {
        properties = properties.insert("partition", id);
    }
    let request = Message::builder()
        .properties(Properties::builder().message_id(77_u64).build())
        .application_properties(properties.build())
        .value(Value::Null)
        .build();
    sender.send(request).await.unwrap();
    let reply: Delivery<AmqpValue<OrderedMap<String, Value>>> =
        timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap();
    let status = reply.message().application_properties.as_ref().unwrap();
    assert_eq!(status.0.get("status-code"), Some(&SimpleValue::Int(200)));
    let id = reply
        .message()
        .properties
        .as_ref()
        .unwrap()
        .correlation_id
        .clone();
    assert_eq!(format!("{id:?}"), "Some(Ulong(77))");
    let map = reply.into_body().0.into_iter().collect();
    sender.close().await.unwrap();
    receiver.close().await.unwrap();
    map
}

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
async fn retention_moves_the_start_of_a_partition() {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_retention(3, usize::MAX)
        .start()
        .await
        .unwrap();
    for n in 0..10 {
        emulator.send("hub", None, &*format!("{n}")).unwrap();
    }
    let properties = emulator.partition_properties("hub", "0").unwrap();
    assert_eq!(properties.begin_sequence_number, 7);
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        position: "x-opt-sequence-number > '2'",
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    assert_eq!(text(&receive(&mut receiver).await), "7");
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_does_not_hold_up_others() {
    let emulator = emulator().await;
    let mut slow = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Auto(1_000_000),
        ..Reading::default()
    };
    let _never_read = slow.receiver("0", reading).await;
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Auto(1000),
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    let body = "x".repeat(100_000);
    for _ in 0..200 {
        emulator.send("hub", Some("0"), &*body).unwrap();
    }
    for _ in 0..200 {
        receive(&mut receiver).await;
    }
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
