//! Faults of event hubs as a whole, of one connection among several, and of single deliveries.

use eventhubs_emulator::{Emulator, EmulatorError, Event};
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tokio::time::timeout;

use super::support::{
    Client, PATIENCE, Reading, annotation, data, emulator, is_silent, receive, text,
};

async fn end_of(receiver: &mut Receiver) -> String {
    let end = timeout(PATIENCE, receiver.recv::<Body<Value>>()).await;
    format!("{:?}", end.unwrap().unwrap_err())
}

#[tokio::test]
async fn an_event_hub_made_again_starts_anew() {
    let emulator = emulator().await;
    let old = emulator.send("hub", Some("0"), "old").unwrap();
    emulator.create_consumer_group("hub", "cg").unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    receive(&mut receiver).await;
    emulator.faults().recreate_hub("HUB").unwrap();
    let end = end_of(&mut receiver).await;
    assert!(end.contains("NotFound"), "{end}");
    let position = format!("x-opt-offset > '{}'", old.offset);
    let beyond = Reading {
        position: &position,
        ..Reading::default()
    };
    let error = client.refusal("0", beyond).await;
    assert!(error.contains("The supplied offset"), "{error}");
    let new = emulator.send("hub", Some("0"), "new").unwrap();
    assert_eq!((new.sequence_number, new.offset), (0, old.offset));
    let again = emulator.faults().recreate_hub("nohub");
    assert_eq!(again, Err(EmulatorError::NoSuchHub("nohub".to_owned())));
    emulator.delete_hub("hub").unwrap();
    let error = client.refusal("0", Reading::default()).await;
    assert!(error.contains("could not be found"), "{error}");
}

#[tokio::test]
async fn an_event_hub_made_again_is_empty_on_disk_too() {
    let root = tempfile::tempdir().unwrap();
    let start = || {
        Emulator::builder()
            .with_hub("hub", 1)
            .with_data_dir(root.path())
            .start()
    };
    let emulator = start().await.unwrap();
    emulator.send("hub", None, "old").unwrap();
    emulator.faults().recreate_hub("hub").unwrap();
    emulator.send("hub", None, "new").unwrap();
    emulator.stop().await;
    let emulator = start().await.unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    assert_eq!(text(&receive(&mut receiver).await), "new");
}

#[tokio::test]
async fn a_disabled_event_hub_lets_nobody_in_until_it_is_enabled() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    emulator.faults().disable_hub("hub", true);
    let end = end_of(&mut receiver).await;
    assert!(end.contains("entity-disabled"), "{end}");
    for _ in 0..2 {
        let error = client.refusal("0", Reading::default()).await;
        assert!(error.contains("entity-disabled"), "{error}");
    }
    emulator.faults().disable_hub("hub", false);
    let mut client = Client::connect(&emulator).await;
    client.receiver("0", Reading::default()).await;
}

#[tokio::test]
async fn a_redirect_tells_host_and_port() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    let faults = emulator.faults();
    faults.redirect_links("hub", Some("0"), "elsewhere", 5671);
    let end = end_of(&mut receiver).await;
    for told in ["Redirect", "network-host", "elsewhere", "5671"] {
        assert!(end.contains(told), "{told}: {end}");
    }
    faults.redirect_connections("elsewhere", 5671);
    let end = timeout(PATIENCE, client.connection.on_close()).await;
    let end = format!("{:?}", end.unwrap());
    assert!(end.contains("Redirect") && end.contains("5671"), "{end}");
}

#[tokio::test]
async fn one_connection_is_meant_by_its_number_or_by_what_it_reads() {
    let emulator = emulator().await;
    let mut clients = Vec::new();
    for partition in ["0", "1", "2"] {
        let mut client = Client::connect(&emulator).await;
        let receiver = client.receiver(partition, Reading::default()).await;
        clients.push((client, receiver));
    }
    let connections = emulator.status().open_connections;
    assert_eq!(connections.len(), 3);
    assert_eq!(connections[0].container_id.as_deref(), Some("test"));
    let faults = emulator.faults();
    let by_number = faults.on_connection(connections[0].id);
    by_number.close_connections("amqp:connection:forced", "by number");
    faults.on_partition("hub", "1").drop_connections();
    let (mut last, mut receiver) = clients.pop().unwrap();
    for (mut client, _receiver) in clients {
        let end = timeout(PATIENCE, client.connection.on_close()).await;
        assert!(end.unwrap().is_err());
    }
    emulator.send("hub", Some("2"), "x").unwrap();
    receive(&mut receiver).await;
    faults
        .on_partition("hub", "3")
        .end_sessions("amqp:internal-error", "x");
    emulator.send("hub", Some("2"), "y").unwrap();
    receive(&mut receiver).await;
    faults
        .on_hub("hub")
        .end_sessions("amqp:internal-error", "x");
    let end = timeout(PATIENCE, last.session.on_end()).await;
    assert!(format!("{:?}", end.unwrap()).contains("InternalError"));
}

#[tokio::test]
async fn events_are_withheld_from_one_partition_and_come_afterwards() {
    let emulator = emulator().await;
    let faults = emulator.faults();
    faults.on_partition("hub", "0").withhold_deliveries(true);
    let mut client = Client::connect(&emulator).await;
    let mut zero = client.receiver("0", Reading::default()).await;
    let reading = Reading {
        name: "one",
        ..Reading::default()
    };
    let mut one = client.receiver("1", reading).await;
    for partition in ["0", "1"] {
        emulator.send("hub", Some(partition), partition).unwrap();
    }
    receive(&mut one).await;
    assert!(is_silent(&mut zero).await);
    faults.on_partition("hub", "0").withhold_deliveries(false);
    assert_eq!(text(&receive(&mut zero).await), "0");
    faults.on_hub("other").ignore_attaches(true);
    client.sender("hub").await.send(data("x")).await.unwrap();
}

/// What a client receives of three events, and how it ends, if it does.
async fn received(emulator: &Emulator) -> (Vec<(Value, usize)>, Option<String>) {
    for _ in 0..3 {
        let event = Event::new(vec![b'x'; 2000]);
        emulator.send("hub", Some("0"), event).unwrap();
    }
    let mut client = Client::connect(emulator).await;
    let reading = Reading {
        credit: CreditMode::Manual,
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    receiver.set_credit(10).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        match timeout(PATIENCE, receiver.recv::<Body<Value>>()).await {
            Ok(Ok(delivery)) => {
                let number = annotation(&delivery, "x-opt-sequence-number").clone();
                got.push((number, text(&delivery).len()));
            }
            Ok(Err(error)) => return (got, Some(format!("{error:?}"))),
            Err(_) => return (got, Some("nothing more".to_owned())),
        }
    }
    (got, None)
}

#[tokio::test]
async fn an_aborted_delivery_comes_again_as_a_whole() {
    let emulator = emulator().await;
    emulator.faults().abort_deliveries("hub", Some("0"), 2);
    let (got, end) = received(&emulator).await;
    let expected: Vec<_> = (0..3).map(|n| (Value::Long(n), 2000)).collect();
    assert_eq!((got, end), (expected, None));
    assert_eq!(emulator.faults().counts()["abort_deliveries"], 2);
}

#[tokio::test]
async fn what_no_peer_may_send_is_sent() {
    // What this client makes of it is its affair; that it is none of its usual events is ours.
    let emulator = emulator().await;
    let faults = emulator.faults();
    faults.interleave_deliveries("hub", Some("0"), 1);
    let (got, end) = received(&emulator).await;
    let usual: Vec<_> = (0..3).map(|n| (Value::Long(n), 2000)).collect();
    assert!(end.is_some() || got != usual, "{got:?}");
    assert_eq!(faults.counts()["interleave_deliveries"], 1);
}

#[tokio::test]
async fn an_inflated_event_has_its_bytes_in_the_footer() {
    let emulator = emulator().await;
    let bytes = 500_000;
    emulator
        .faults()
        .inflate_deliveries("hub", Some("0"), bytes, 1);
    emulator.send("hub", Some("0"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    let delivery = receive(&mut receiver).await;
    assert_eq!(text(&delivery), "x");
    let footer = format!("{:?}", delivery.message().footer);
    assert!(footer.len() > bytes, "{}", footer.len());
}
