//! The AMQP client against the emulator.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::credential::{AccessToken, EventHubsCredential, Secret, TokenCredential};
use eventhubs_processor::error::{BoxError, TransportError, TransportErrorKind as Kind};
use eventhubs_processor::transport::{
    AmqpOptions, AmqpTransport, PartitionReceiver, ReceiverOptions, Transport,
};
use eventhubs_processor::{EventPosition, Offset, ReceivedEvent};
use tokio::time::timeout;

const HUB: &str = "hub";
const KEY: &str = "the-canary-key";

/// Timeouts short enough for a test and long enough for a busy machine.
fn options() -> AmqpOptions {
    AmqpOptions::default()
        .with_operation_timeout(Duration::from_secs(10))
        .with_connect_timeout(Duration::from_secs(3))
        .with_close_timeout(Duration::from_secs(2))
        .with_idle_timeout(Duration::from_secs(4))
}

async fn emulator() -> Emulator {
    Emulator::builder().with_hub(HUB, 4).start().await.unwrap()
}

fn client(emulator: &Emulator) -> AmqpTransport {
    let text = emulator.event_hubs_connection_string();
    AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap()
}

async fn setup() -> (Emulator, AmqpTransport) {
    let emulator = emulator().await;
    let client = client(&emulator);
    (emulator, client)
}

fn send(emulator: &Emulator, partition: &str, bodies: std::ops::Range<usize>) -> Vec<i64> {
    bodies
        .map(|n| {
            emulator
                .send(HUB, Some(partition), Event::new(n.to_string()))
                .unwrap()
                .sequence_number
        })
        .collect()
}

fn at(partition: &str, position: EventPosition) -> ReceiverOptions {
    let mut options = ReceiverOptions::new("$Default", partition.into(), position);
    options.owner_level = Some(0);
    options
}

async fn receive(receiver: &mut Box<dyn PartitionReceiver>, count: usize) -> Vec<ReceivedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let more = timeout(
            Duration::from_secs(10),
            receiver.receive(count - events.len()),
        )
        .await
        .unwrap()
        .unwrap();
        assert!(!more.is_empty());
        events.extend(more);
    }
    events
}

fn bodies(events: &[ReceivedEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.body_as_str().into_owned())
        .collect()
}

async fn error_of(receiver: &mut Box<dyn PartitionReceiver>) -> TransportError {
    timeout(Duration::from_secs(15), receiver.receive(10))
        .await
        .unwrap()
        .unwrap_err()
}

async fn open_error(client: &AmqpTransport, options: ReceiverOptions) -> TransportError {
    timeout(Duration::from_secs(15), client.open_receiver(options))
        .await
        .unwrap()
        .map(drop)
        .unwrap_err()
}

#[tokio::test]
async fn reads_the_properties_of_hub_and_partition() {
    let (emulator, client) = setup().await;
    let sent = send(&emulator, "1", 0..3);
    let hub = client.event_hub_properties().await.unwrap();
    assert_eq!(hub.name, HUB);
    assert_eq!(hub.partition_ids.len(), 4);
    assert!(hub.created_at.is_some());
    let partition = client.partition_properties(&"1".into()).await.unwrap();
    assert_eq!(partition.last_enqueued_sequence_number, sent[2]);
    assert!(!partition.is_empty);
    let empty = client.partition_properties(&"0".into()).await.unwrap();
    assert!(empty.is_empty);
    let expected = emulator.partition_properties(HUB, "1").unwrap();
    assert_eq!(
        partition.last_enqueued_offset.as_str(),
        expected.last_enqueued_offset
    );
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn starts_at_every_position() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..3);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&emulator, "0", 3..5);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let all = receive(&mut receiver, 5).await;
    receiver.close().await;
    assert_eq!(bodies(&all), ["0", "1", "2", "3", "4"]);
    let third = &all[2];
    let cases = [
        (EventPosition::offset(third.offset().clone()), 3),
        (EventPosition::offset(third.offset().clone()).inclusive(), 2),
        (EventPosition::sequence_number(third.sequence_number()), 3),
        (
            EventPosition::sequence_number(third.sequence_number()).inclusive(),
            2,
        ),
        (EventPosition::enqueued_time(middle), 3),
        (EventPosition::enqueued_time(middle).inclusive(), 3),
    ];
    for (position, first) in cases {
        let mut receiver = client
            .open_receiver(at("0", position.clone()))
            .await
            .unwrap();
        let events = receive(&mut receiver, 5 - first).await;
        let expected: Vec<_> = (first..5).map(|n| n.to_string()).collect();
        assert_eq!(bodies(&events), expected, "{position:?}");
        receiver.close().await;
    }
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Latest))
        .await
        .unwrap();
    send(&emulator, "0", 5..6);
    assert_eq!(bodies(&receive(&mut receiver, 1).await), ["5"]);
    receiver.close().await;
    client.close().await;
}

#[tokio::test]
async fn an_event_arrives_with_all_its_parts() {
    let (emulator, client) = setup().await;
    let event = Event::new("body")
        .with_partition_key("key")
        .with_message_id("id")
        .with_property("n", 7_i64);
    let sent = emulator.send(HUB, Some("2"), event).unwrap();
    let mut options = at("2", EventPosition::Earliest);
    options.track_last_enqueued_event_properties = true;
    let mut receiver = client.open_receiver(options).await.unwrap();
    let event = &receive(&mut receiver, 1).await[0];
    assert_eq!(event.body(), b"body");
    assert_eq!(event.sequence_number(), sent.sequence_number);
    assert_eq!(event.offset(), &Offset::from(sent.offset));
    assert_eq!(event.partition_key(), Some("key"));
    assert_eq!(event.properties()["n"].as_i64(), Some(7));
    let id = event.message_properties().message_id.as_ref().unwrap();
    assert_eq!(id.as_str(), Some("id"));
    let last = event.last_enqueued().unwrap();
    assert_eq!(last.sequence_number, sent.sequence_number);
    client.close().await;
}

#[tokio::test]
async fn resumes_after_the_last_event_however_the_link_was_lost() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..1);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let mut last = receive(&mut receiver, 1).await.pop().unwrap();
    let faults = emulator.faults();
    let idle = "The link is force detached. Details: AmqpEventHubConsumer.IdleTimerExpired: Idle timeout: 00:30:00.";
    let losses: [(&str, Kind, Box<dyn Fn()>); 5] = [
        (
            "detach",
            Kind::LinkDetached,
            Box::new(|| faults.detach_receivers(HUB, Some("0"), "amqp:link:detach-forced", idle)),
        ),
        (
            "busy",
            Kind::ServerBusy,
            Box::new(|| {
                faults.detach_receivers(HUB, None, "com.microsoft:server-busy", "throttled")
            }),
        ),
        (
            "end",
            Kind::LinkDetached,
            Box::new(|| faults.end_sessions("amqp:internal-error", "oops")),
        ),
        (
            "close",
            Kind::ConnectionLost,
            Box::new(|| faults.close_connections("amqp:connection:forced", "upgrade")),
        ),
        (
            "cut",
            Kind::ConnectionLost,
            Box::new(|| faults.drop_connections()),
        ),
    ];
    for (index, (name, kind, lose)) in losses.iter().enumerate() {
        lose();
        let error = error_of(&mut receiver).await;
        assert_eq!(error.kind(), *kind, "{name}: {error}");
        // Done is done.
        assert!(receiver.receive(1).await.is_err());
        send(&emulator, "0", index + 1..index + 2);
        let position = EventPosition::sequence_number(last.sequence_number());
        receiver = client.open_receiver(at("0", position)).await.unwrap();
        let mut events = receive(&mut receiver, 1).await;
        assert_eq!(bodies(&events), [(index + 1).to_string()], "{name}");
        last = events.pop().unwrap();
    }
    client.close().await;
}

#[tokio::test]
async fn properties_survive_every_loss_without_the_caller_noticing() {
    let (emulator, client) = setup().await;
    let faults = emulator.faults();
    client.event_hub_properties().await.unwrap();
    for _ in 0..2 {
        faults.end_sessions("amqp:link:detach-forced", "idle");
        client.event_hub_properties().await.unwrap();
        faults.close_connections("amqp:connection:forced", "idle");
        client.event_hub_properties().await.unwrap();
        faults.drop_connections();
        client.event_hub_properties().await.unwrap();
    }
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn a_stolen_partition_is_lost_and_stays_lost() {
    let (emulator, client) = setup().await;
    let other = self::client(&emulator);
    let mut mine = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let mut theirs = other
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let error = error_of(&mut mine).await;
    assert!(error.is_ownership_lost(), "{error}");
    assert_eq!(error.condition(), Some("amqp:link:stolen"));
    // Nothing of ours takes it back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&emulator, "0", 0..1);
    receive(&mut theirs, 1).await;
    assert_eq!(emulator.receiver_count(HUB, "0").unwrap(), 1);

    let mut higher = at("0", EventPosition::Earliest);
    higher.owner_level = Some(5);
    let _higher = other.open_receiver(higher).await.unwrap();
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert!(error.is_ownership_lost(), "{error}");
    client.close().await;
    other.close().await;
}

#[tokio::test]
async fn the_loss_of_one_receiver_is_no_loss_for_the_others() {
    let (emulator, client) = setup().await;
    let mut first = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let mut second = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    emulator
        .faults()
        .detach_receivers(HUB, Some("0"), "amqp:internal-error", "oops");
    error_of(&mut first).await;
    first.close().await;
    send(&emulator, "1", 0..2);
    assert_eq!(bodies(&receive(&mut second, 2).await), ["0", "1"]);
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn refusals_come_with_their_condition() {
    let (emulator, client) = setup().await;
    let offset = "The supplied offset '5' is invalid. The last offset in the system is '4'";
    let cases = [
        ("amqp:not-found", "could not be found", Kind::NotFound),
        ("amqp:resource-limit-exceeded", "quota", Kind::QuotaExceeded),
        ("com.microsoft:entity-disabled", "disabled", Kind::Disabled),
        ("com.microsoft:server-busy", "busy", Kind::ServerBusy),
        (
            "com.microsoft:argument-error",
            offset,
            Kind::InvalidPosition,
        ),
        ("amqp:not-allowed", "no", Kind::Rejected),
        ("com.contoso:odd", "odd", Kind::LinkDetached),
    ];
    for (condition, description, kind) in cases {
        emulator
            .faults()
            .refuse_attaches(HUB, Some("0"), condition, description, 1);
        let error = open_error(&client, at("0", EventPosition::Earliest)).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.condition(), Some(condition));
    }
    // A token that is refused once is replaced.
    emulator
        .faults()
        .refuse_attaches(HUB, Some("0"), "amqp:unauthorized-access", "claims", 1);
    let receiver = client.open_receiver(at("0", EventPosition::Earliest)).await;
    receiver.unwrap().close().await;
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

#[tokio::test]
async fn what_does_not_exist_is_said_so() {
    let (emulator, client) = setup().await;
    let error = open_error(&client, at("99", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let error = client.partition_properties(&"99".into()).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
    let text = emulator.event_hubs_connection_string();
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some("nowhere"), options())
            .unwrap();
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test]
async fn a_position_beyond_the_end_is_invalid() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..2);
    let error = open_error(&client, at("0", EventPosition::sequence_number(500))).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
    let error = open_error(&client, at("0", EventPosition::offset("' or '1'='1"))).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
}

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
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    client.close().await;
}

#[tokio::test]
async fn a_frozen_peer_ends_in_an_error_and_not_in_silence() {
    let (emulator, client) = setup().await;
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    emulator.faults().freeze_connections(true);
    let started = Instant::now();
    let error = error_of(&mut receiver).await;
    assert!(error.is_transient(), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    // A new connection is accepted by the kernel and answered by nobody.
    let started = Instant::now();
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert!(error.is_transient(), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(11),
        "{:?}",
        started.elapsed()
    );
    emulator.faults().freeze_connections(false);
    client.event_hub_properties().await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn close_is_bounded_whatever_the_peer_does() {
    let (emulator, client) = setup().await;
    let first = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let mut second = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    emulator.faults().freeze_connections(true);
    let started = Instant::now();
    first.close().await;
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let started = Instant::now();
    client.close().await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(error_of(&mut second).await.kind(), Kind::Closed);
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Closed);
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::Closed);
}

#[tokio::test]
async fn an_attach_without_answer_ends_at_its_deadline_and_harms_nobody() {
    let emulator = emulator().await;
    let text = emulator.event_hubs_connection_string();
    let options = options().with_operation_timeout(Duration::from_secs(1));
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options).unwrap();
    let mut other = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    emulator.faults().ignore_attaches(true);
    let error = open_error(&client, at("0", EventPosition::Earliest)).await;
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    emulator.faults().ignore_attaches(false);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    send(&emulator, "0", 0..1);
    send(&emulator, "1", 0..1);
    receive(&mut receiver, 1).await;
    receive(&mut other, 1).await;
    client.close().await;
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (emulator, client) = setup().await;
    let receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let dropped = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    assert_eq!(emulator.receiver_count(HUB, "0").unwrap(), 1);
    receiver.close().await;
    assert_eq!(emulator.receiver_count(HUB, "0").unwrap(), 0);
    drop(dropped);
    eventually(|| emulator.receiver_count(HUB, "1").unwrap() == 0).await;
    client.close().await;
    eventually(|| emulator.connection_count() == 0).await;
}

async fn eventually(is_so: impl Fn() -> bool) {
    for _ in 0..100 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never");
}

#[tokio::test]
async fn many_callers_share_one_connection_and_one_rebuild() {
    let (emulator, client) = setup().await;
    let client = Arc::new(client);
    for _ in 0..3 {
        let callers: Vec<_> = (0..20)
            .map(|n: usize| {
                let client = Arc::clone(&client);
                tokio::spawn(async move {
                    let partition = (n % 4).to_string();
                    let mut options = at(&partition, EventPosition::Earliest);
                    options.owner_level = None;
                    let receiver = client.open_receiver(options).await.unwrap();
                    client.event_hub_properties().await.unwrap();
                    receiver.close().await;
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(emulator.connection_count(), 1);
        emulator.faults().drop_connections();
    }
    client.close().await;
}

#[tokio::test]
async fn no_event_is_lost_when_receive_is_dropped_midway() {
    let (emulator, client) = setup().await;
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch = NonZeroU32::new(7).unwrap();
    let mut receiver = client.open_receiver(options).await.unwrap();
    let mut got = Vec::new();
    let sender = async {
        for n in 0..200 {
            send(&emulator, "0", n..n + 1);
            tokio::time::sleep(Duration::from_micros(700)).await;
        }
    };
    let taker = async {
        while got.len() < 200 {
            // Cancelled more often than not.
            if let Ok(events) = timeout(Duration::from_micros(300), receiver.receive(3)).await {
                got.extend(bodies(&events.unwrap()));
            }
        }
    };
    timeout(Duration::from_secs(30), async {
        tokio::join!(sender, taker)
    })
    .await
    .unwrap();
    let expected: Vec<_> = (0..200).map(|n: usize| n.to_string()).collect();
    assert_eq!(got, expected);
    client.close().await;
}

#[tokio::test]
async fn opening_can_be_given_up_without_harm_to_the_others() {
    let (emulator, client) = setup().await;
    let mut steady = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    for micros in (0..4000).step_by(50) {
        let open = client.open_receiver(at("0", EventPosition::Earliest));
        let _ = timeout(Duration::from_micros(micros), open).await;
    }
    send(&emulator, "1", 0..3);
    assert_eq!(bodies(&receive(&mut steady, 3).await), ["0", "1", "2"]);
    assert_eq!(emulator.connection_count(), 1);
    let last = client.open_receiver(at("0", EventPosition::Earliest)).await;
    last.unwrap();
    eventually(|| emulator.receiver_count(HUB, "0").unwrap() == 0).await;
    client.close().await;
}

#[tokio::test]
async fn large_events_come_whole_and_in_order() {
    let (emulator, client) = setup().await;
    for size in [10, 70_000, 300_000, 1_000, 900_000] {
        emulator
            .send(HUB, Some("0"), Event::new(vec![b'x'; size]))
            .unwrap();
    }
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let sizes: Vec<_> = receive(&mut receiver, 5)
        .await
        .iter()
        .map(|event| event.body().len())
        .collect();
    assert_eq!(sizes, [10, 70_000, 300_000, 1_000, 900_000]);
    client.close().await;
}

#[tokio::test]
async fn more_events_than_credit_arrive_in_order() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..2000);
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch = NonZeroU32::new(10).unwrap();
    let mut receiver = client.open_receiver(options).await.unwrap();
    let events = receive(&mut receiver, 2000).await;
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event.sequence_number(), i64::try_from(n).unwrap());
    }
    client.close().await;
}

#[tokio::test]
async fn the_service_never_sends_more_than_the_prefetch_ahead() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..300);
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch = NonZeroU32::new(10).unwrap();
    let mut receiver = client.open_receiver(options).await.unwrap();
    let mut got = Vec::new();
    for round in 0..40 {
        // Time for everything that has been granted to arrive.
        tokio::time::sleep(Duration::from_millis(15)).await;
        let max = [1, 4, 6, 1000][round % 4];
        let events = receiver.receive(max).await.unwrap();
        assert!(events.len() <= max.min(10), "{} of {max}", events.len());
        if max == 1000 {
            assert!(events.len() >= 4, "credit is given back: {}", events.len());
        }
        got.extend(events.iter().map(ReceivedEvent::sequence_number));
    }
    let expected: Vec<_> = (0..).take(got.len()).collect();
    assert_eq!(got, expected);
    client.close().await;
}

#[tokio::test]
async fn a_receiver_full_of_events_closes_at_once() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..1000);
    send(&emulator, "1", 0..1000);
    for goodbye in [true, false] {
        let mut receiver = client
            .open_receiver(at("0", EventPosition::Earliest))
            .await
            .unwrap();
        receive(&mut receiver, 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        if goodbye {
            receiver.close().await;
            assert!(
                started.elapsed() < Duration::from_millis(500),
                "{:?}",
                started.elapsed()
            );
            assert_eq!(emulator.receiver_count(HUB, "0").unwrap(), 0);
        } else {
            drop(receiver);
            eventually(|| emulator.receiver_count(HUB, "0").unwrap() == 0).await;
        }
    }
    let mut receiver = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    receive(&mut receiver, 1000).await;
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}

/// Reads a partition to its end, opening another receiver after every loss.
async fn read_to_end(client: &AmqpTransport, partition: &str, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut position = EventPosition::Earliest;
    while all.len() < count {
        let Ok(mut receiver) = client.open_receiver(at(partition, position.clone())).await else {
            continue;
        };
        while let Ok(events) = receiver.receive(50).await {
            position = EventPosition::offset(events[events.len() - 1].offset().clone());
            all.extend(bodies(&events));
            if all.len() >= count {
                break;
            }
        }
        receiver.close().await;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_under_a_rain_of_faults() {
    const EVENTS: usize = 400;
    let emulator = Emulator::builder().with_hub(HUB, 16).start().await.unwrap();
    let client = Arc::new(client(&emulator));
    let readers: Vec<_> = (0..16)
        .map(|partition: usize| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { read_to_end(&client, &partition.to_string(), EVENTS).await })
        })
        .collect();
    let faults = emulator.faults();
    for n in 0..EVENTS {
        for partition in 0..16 {
            send(&emulator, &partition.to_string(), n..n + 1);
        }
        match n % 40 {
            5 => faults.detach_receivers(HUB, Some("3"), "amqp:link:detach-forced", "idle"),
            10 => faults.end_sessions("amqp:internal-error", "oops"),
            15 => faults.close_connections("amqp:connection:forced", "upgrade"),
            20 => faults.drop_connections(),
            25 => faults.refuse_attaches(HUB, None, "com.microsoft:server-busy", "busy", 3),
            30 => faults.answer_cbs(500, 1),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let expected: Vec<_> = (0..EVENTS).map(|n| n.to_string()).collect();
    for reader in readers {
        let got = timeout(Duration::from_secs(30), reader)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got, expected);
    }
    client.close().await;
    eventually(|| emulator.connection_count() == 0).await;
}

/// A message whose body is lists in lists.
fn bomb(depth: usize) -> Event {
    let mut list = vec![0x40];
    for _ in 0..depth {
        let size = u32::try_from(list.len() + 4).unwrap().to_be_bytes();
        list = [&[0xd0][..], &size, &[0, 0, 0, 1], &list].concat();
    }
    Event::from_encoded([&[0x00, 0x53, 0x77][..], &list].concat())
}

#[tokio::test]
async fn a_poisonous_event_costs_its_own_link_only() {
    let (emulator, client) = setup().await;
    let mut other = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    emulator.send(HUB, Some("0"), bomb(20)).unwrap();
    emulator.send(HUB, Some("0"), bomb(20_000)).unwrap();
    send(&emulator, "0", 2..3);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    receive(&mut receiver, 1).await;
    let error = error_of(&mut receiver).await;
    assert_eq!(error.kind(), Kind::UndecodableMessage, "{error}");
    let mut receiver = client
        .open_receiver(at("0", EventPosition::sequence_number(1)))
        .await
        .unwrap();
    assert_eq!(bodies(&receive(&mut receiver, 1).await), ["2"]);
    send(&emulator, "1", 0..1);
    receive(&mut other, 1).await;
    assert_eq!(emulator.connection_count(), 1);
    client.close().await;
}
