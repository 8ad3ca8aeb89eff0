//! A geo-replicated namespace, and the rule of one pair of `$cbs` links.

use eventhubs_emulator::{Emulator, EmulatorError};
use fe2o3_amqp::Session;
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use fe2o3_amqp_types::primitives::Value;

use super::nodes::read;
use super::support::{Client, Reading, annotation, emulator, receive, text};

const INVALID: &str = "com.microsoft:georeplication:invalid-offset";

async fn replicated() -> Emulator {
    Emulator::builder()
        .with_hub("hub", 2)
        .with_geo_replication(true)
        .start()
        .await
        .unwrap()
}

fn after(position: &str) -> Reading<'_> {
    Reading {
        position,
        geo: true,
        ..Reading::default()
    }
}

/// The text of the first event behind a position.
async fn first(emulator: &Emulator, position: &str) -> String {
    let mut client = Client::connect(emulator).await;
    let mut receiver = client.receiver("0", after(position)).await;
    let delivery = receive(&mut receiver).await;
    client.close().await;
    text(&delivery)
}

async fn refusal(emulator: &Emulator, reading: Reading<'_>) -> String {
    let mut client = Client::connect(emulator).await;
    client.refusal("0", reading).await
}

#[tokio::test]
async fn offsets_are_text_and_good_until_the_fail_over() {
    let emulator = replicated().await;
    let sent: Vec<_> = ["a", "b", "c"]
        .map(|body| emulator.send("hub", Some("0"), body).unwrap())
        .to_vec();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    let Value::String(offset) = annotation(&delivery, "x-opt-offset") else {
        panic!("an offset is a string");
    };
    assert_eq!(*offset, sent[0].offset);
    assert!(offset.parse::<i64>().is_err(), "{offset}");
    let state = emulator.partition_properties("hub", "0").unwrap();
    assert_eq!(state.last_enqueued_offset, sent[2].offset);

    let position = format!("x-opt-offset > '{offset}'");
    assert_eq!(first(&emulator, &position).await, "b");
    let number = format!("x-opt-offset > '{}'", offset.rsplit_once(':').unwrap().1);
    assert!(refusal(&emulator, after(&number)).await.contains(INVALID));
    let unable = Reading {
        geo: false,
        ..after(&position)
    };
    assert!(refusal(&emulator, unable).await.contains(INVALID));

    emulator.faults().fail_over().unwrap();
    assert!(refusal(&emulator, after(&position)).await.contains(INVALID));
    // Nothing is lost, and sequence numbers and times stay good.
    assert_eq!(first(&emulator, "x-opt-sequence-number > '0'").await, "b");
    let state = emulator.partition_properties("hub", "0").unwrap();
    assert_eq!(state.last_enqueued_sequence_number, 2);
    let sent = emulator.send("hub", Some("0"), "d").unwrap();
    assert_eq!(sent.sequence_number, 3);
    let position = format!("x-opt-offset > '{}'", state.last_enqueued_offset);
    assert_eq!(first(&emulator, &position).await, "d");
}

#[tokio::test]
async fn a_fail_over_closes_what_is_connected() {
    let emulator = replicated().await;
    let mut client = Client::connect(&emulator).await;
    emulator.faults().fail_over().unwrap();
    let end = format!("{:?}", client.connection.on_close().await);
    assert!(end.contains("ConnectionForced"), "{end}");
}

#[tokio::test]
async fn the_properties_tell_of_replicas() {
    for (emulator, factor) in [(replicated().await, 2), (emulator().await, 1)] {
        let mut client = Client::connect(&emulator).await;
        let hub = read(&mut client, "com.microsoft:eventhub", None).await;
        assert_eq!(hub["georeplication_factor"], Value::Int(factor));
    }
    let fail_over = emulator().await.faults().fail_over();
    assert_eq!(fail_over, Err(EmulatorError::NotGeoReplicated));
}

#[tokio::test]
async fn a_data_directory_may_be_replicated_or_not() {
    let root = tempfile::tempdir().unwrap();
    let open = |is_replicated| {
        Emulator::builder()
            .with_hub("hub", 1)
            .with_data_dir(root.path())
            .with_geo_replication(is_replicated)
            .start()
    };
    let offsets = |emulator: &Emulator| {
        let state = emulator.partition_properties("hub", "0").unwrap();
        state.last_enqueued_offset
    };
    let emulator = open(false).await.unwrap();
    let number = emulator.send("hub", Some("0"), "a").unwrap().offset;
    emulator.stop().await;

    let emulator = open(true).await.unwrap();
    emulator.faults().fail_over().unwrap();
    let replicated = offsets(&emulator);
    assert_eq!(replicated.rsplit_once(':').unwrap().1, number);
    emulator.stop().await;

    let emulator = open(true).await.unwrap();
    assert_eq!(offsets(&emulator), replicated, "the epoch is remembered");
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    let seen = annotation(&delivery, "x-opt-offset").clone();
    assert_eq!(seen, Value::String(replicated));
    emulator.stop().await;

    let emulator = open(false).await.unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    let seen = annotation(&delivery, "x-opt-offset").clone();
    assert_eq!(seen, Value::String(number));
}

#[tokio::test]
async fn a_second_pair_of_cbs_links_is_refused_if_wanted() {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_single_cbs_link(true)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut cbs = CbsClient::attach(&mut client.session).await.unwrap();
    let mut other = Session::begin(&mut client.connection).await.unwrap();
    let error = CbsClient::attach(&mut other).await.map(drop).unwrap_err();
    assert!(format!("{error:?}").contains("NotAllowed"), "{error:?}");
    let token = CbsToken::new("anything", "servicebus.windows.net:sastoken", None);
    cbs.put_token("sb://host/hub", token).await.unwrap();

    // Another connection has its own, and a pair that is gone leaves room for the next.
    let mut second = Client::connect(&emulator).await;
    CbsClient::attach(&mut second.session).await.unwrap();
    cbs.close().await.unwrap();
    let mut other = Session::begin(&mut client.connection).await.unwrap();
    CbsClient::attach(&mut other).await.unwrap();
}
