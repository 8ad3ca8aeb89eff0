//! Faults on command, each as a client sees it.

use std::time::{Duration, Instant};

use eventhubs_emulator::{BadFrame, Emulator, ReplyFault, ResetStage};
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::{Connection, Receiver, Session};
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use fe2o3_amqp_types::messaging::{Body, Outcome};
use fe2o3_amqp_types::primitives::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::nodes::read;
use super::support::{Client, PATIENCE, Reading, annotation, data, emulator, receive};

const HEADER: &[u8] = b"AMQP\x00\x01\x00\x00";
/// An `open` with nothing but a container id.
const OPEN: &[u8] = b"\0\0\0\x11\x02\0\0\0\0\x53\x10\xc0\x04\x01\xa1\x01x";

/// Connects and attaches a receiver; an error tells nothing but that it went wrong.
async fn attempt(emulator: &Emulator) -> Option<()> {
    let url = format!("amqp://{}", emulator.amqp_addr());
    let open = Connection::builder()
        .container_id("test")
        .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
        .open(&*url);
    let mut connection = timeout(PATIENCE, open).await.unwrap().ok()?;
    let mut session = Session::begin(&mut connection).await.ok()?;
    let address = "hub/ConsumerGroups/$Default/Partitions/0";
    Receiver::attach(&mut session, "r", address).await.ok()?;
    Some(())
}

#[tokio::test]
async fn a_connection_is_reset_at_each_stage_and_works_the_next_time() {
    let emulator = emulator().await;
    for stage in [
        ResetStage::Header,
        ResetStage::Sasl,
        ResetStage::Open,
        ResetStage::Begin,
        ResetStage::Attach,
    ] {
        emulator.faults().reset_at(stage, 1);
        assert!(attempt(&emulator).await.is_none(), "{stage:?}");
        assert!(attempt(&emulator).await.is_some(), "{stage:?}");
    }
    assert_eq!(emulator.faults().counts()["reset_at"], 5);
    let faults = emulator.faults();
    faults.reset_at_link(ResetStage::Attach, "hub", Some("3"), 1);
    assert!(attempt(&emulator).await.is_some(), "another partition");
}

#[tokio::test]
async fn a_connection_ends_within_a_frame() {
    let emulator = emulator().await;
    emulator.faults().reset_after_bytes(20, 1);
    let mut stream = emulator.connect();
    stream.write_all(&[HEADER, OPEN].concat()).await.unwrap();
    let mut got = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got.len(), 20);
    let size = u32::from_be_bytes([got[8], got[9], got[10], got[11]]);
    assert!(size > 12, "an open frame that breaks off");
}

#[tokio::test]
async fn answers_are_delayed() {
    let emulator = emulator().await;
    let delay = Duration::from_millis(200);
    emulator.faults().delay(delay);
    let mut stream = emulator.connect();
    let asked = Instant::now();
    stream.write_all(HEADER).await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    assert!(asked.elapsed() >= delay);
    emulator.faults().clear();
    let mut client = Client::connect(&emulator).await;
    client.receiver("0", Reading::default()).await;
}

#[tokio::test]
async fn frames_that_are_none_come_as_ordered() {
    let emulator = emulator().await;
    for (frame, expected) in [
        (BadFrame::SizeTooSmall, &[0, 0, 0, 7, 2, 0, 0, 0]),
        (BadFrame::OffsetTooSmall, &[0, 0, 0, 8, 1, 0, 0, 0]),
        (BadFrame::Oversize, &[0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0]),
        (BadFrame::UnknownType, &[0, 0, 0, 8, 2, 9, 0, 0]),
    ] {
        let mut stream = emulator.connect();
        stream.write_all(&[HEADER, OPEN].concat()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        let size = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let mut rest = vec![0; size as usize - 4];
        stream.read_exact(&mut rest).await.unwrap();
        emulator.faults().send_bad_frame(frame);
        let mut got = [0; 8];
        let read = stream.read_exact(&mut got);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        assert_eq!(&got, expected, "{frame:?}");
    }
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("0", Reading::default()).await;
    emulator.faults().send_bad_frame(BadFrame::Garbage);
    let end = timeout(PATIENCE, receiver.recv::<Body<Value>>()).await;
    assert!(end.unwrap().is_err());
}

async fn sequence_numbers(receiver: &mut Receiver, count: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let delivery = receive(receiver).await;
        let Value::Long(number) = annotation(&delivery, "x-opt-sequence-number") else {
            panic!("sequence number");
        };
        numbers.push(*number);
    }
    numbers
}

#[tokio::test]
async fn deliveries_come_twice_swapped_or_not_at_all() {
    let emulator = emulator().await;
    for partition in ["0", "1", "2", "3"] {
        for _ in 0..4 {
            emulator.send("hub", Some(partition), "x").unwrap();
        }
    }
    let faults = emulator.faults();
    faults.duplicate_deliveries("hub", Some("0"), 1);
    faults.reorder_deliveries("hub", Some("1"), 1);
    faults.skip_deliveries("hub", Some("2"), 1);
    let mut client = Client::connect(&emulator).await;
    for (partition, expected) in [
        ("0", vec![0, 0, 1, 2, 3]),
        ("1", vec![1, 0, 2, 3]),
        ("2", vec![1, 2, 3]),
        ("3", vec![0, 1, 2, 3]),
    ] {
        let mut receiver = client.receiver(partition, Reading::default()).await;
        let got = sequence_numbers(&mut receiver, expected.len()).await;
        assert_eq!(got, expected, "partition {partition}");
        receiver.close().await.unwrap();
    }
}

#[tokio::test]
async fn more_events_come_than_credit_was_given_for() {
    let emulator = emulator().await;
    for _ in 0..6 {
        emulator.send("hub", Some("0"), "x").unwrap();
    }
    emulator.faults().over_send("hub", Some("0"), 3, 1);
    let mut client = Client::connect(&emulator).await;
    let reading = Reading {
        credit: CreditMode::Manual,
        ..Reading::default()
    };
    let mut receiver = client.receiver("0", reading).await;
    receiver.set_credit(2).await.unwrap();
    let mut results = Vec::new();
    while let Ok(result) = timeout(Duration::from_secs(1), receiver.recv::<Body<Value>>()).await {
        let is_error = result.is_err();
        results.push(result.is_ok());
        if is_error {
            break;
        }
    }
    // The client may take them, or end the link as the standard allows.
    let is_told = results.len() == 5 || results.contains(&false);
    assert!(is_told, "{results:?}");
}

#[tokio::test]
async fn tokens_end_on_a_live_link() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut zero = client.receiver("0", Reading::default()).await;
    let reading = Reading {
        name: "one",
        ..Reading::default()
    };
    let mut one = client.receiver("1", reading).await;
    emulator.faults().expire_tokens("hub", Some("0"));
    let error = timeout(PATIENCE, zero.recv::<Body<Value>>()).await.unwrap();
    assert!(
        format!("{error:?}").contains("UnauthorizedAccess"),
        "{error:?}"
    );
    emulator.send("hub", Some("1"), "x").unwrap();
    receive(&mut one).await;
}

#[tokio::test]
async fn management_replies_fail_in_every_way() {
    let emulator = emulator().await;
    let faults = emulator.faults();
    let kind = "com.microsoft:eventhub";
    let mut client = Client::connect(&emulator).await;
    faults.show_fewer_partitions("hub", 1, 1);
    let hub = read(&mut client, kind, None).await;
    assert_eq!(hub["partition_count"], Value::Int(1));
    let hub = read(&mut client, kind, None).await;
    assert_eq!(hub["partition_count"], Value::Int(4));

    let delay = Duration::from_millis(200);
    faults.disturb_management("hub", ReplyFault::Late { delay }, 1);
    let asked = Instant::now();
    read(&mut client, kind, None).await;
    assert!(asked.elapsed() >= delay);

    faults.disturb_management("hub", ReplyFault::Lost {}, 1);
    let wait = Duration::from_millis(300);
    let lost = timeout(wait, read(&mut client, kind, None)).await;
    assert!(lost.is_err(), "no reply");
    assert_eq!(faults.counts()["management_replies"], 2);
}

#[tokio::test]
async fn cbs_replies_get_lost_or_are_for_another() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut cbs = CbsClient::attach(&mut client.session).await.unwrap();
    let token = || CbsToken::new("anything", "servicebus.windows.net:sastoken", None);
    let wait = Duration::from_millis(300);
    emulator.faults().disturb_cbs(ReplyFault::Lost {}, 1);
    let put = cbs.put_token("sb://host/hub", token());
    assert!(timeout(wait, put).await.is_err(), "no reply");
    let mut client = Client::connect(&emulator).await;
    let mut cbs = CbsClient::attach(&mut client.session).await.unwrap();
    cbs.put_token("sb://host/hub", token()).await.unwrap();
    emulator
        .faults()
        .disturb_cbs(ReplyFault::WrongCorrelation {}, 1);
    // What a client makes of a strange answer is its own affair; the emulator has sent one.
    let _ = timeout(wait, cbs.put_token("sb://host/hub", token())).await;
    assert_eq!(emulator.faults().counts()["cbs_replies"], 2);
}

#[tokio::test]
async fn senders_are_rejected_left_waiting_and_cut_off_after_the_store() {
    let emulator = emulator().await;
    let faults = emulator.faults();
    let newest = || {
        let state = emulator.partition_properties("hub", "1").unwrap();
        state.last_enqueued_sequence_number
    };
    let mut client = Client::connect(&emulator).await;
    let mut sender = client.sender("hub/Partitions/1").await;
    faults.reject_messages("hub", Some("1"), "com.microsoft:server-busy", "busy", 1);
    let outcome = sender.send(data("x")).await.unwrap();
    assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
    assert_eq!(newest(), -1);
    faults.lose_dispositions("hub", Some("1"), 1);
    let wait = Duration::from_millis(300);
    assert!(timeout(wait, sender.send(data("x"))).await.is_err());
    assert_eq!(newest(), 0);
    faults.reset_after_store("hub", Some("1"), 1);
    // The client does not tell the sender, so its connection is asked.
    let _ = timeout(wait, sender.send(data("x"))).await;
    let end = timeout(PATIENCE, client.connection.on_close()).await;
    assert!(end.unwrap().is_err());
    assert_eq!(newest(), 1);
}

#[tokio::test]
async fn a_detach_gets_no_answer() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let receiver = client.receiver("0", Reading::default()).await;
    emulator.faults().ignore_detaches("hub", Some("0"), 1);
    let wait = Duration::from_millis(300);
    assert!(timeout(wait, receiver.close()).await.is_err());
    assert_eq!(emulator.receiver_count("hub", "0").unwrap(), 0);
}
