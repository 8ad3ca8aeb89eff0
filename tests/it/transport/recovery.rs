//! Losses of every kind, and what is left after them.

use super::*;

/// Its name, what it looks like, and how it comes about.
type Loss<'a> = (&'a str, Kind, Box<dyn Fn() + 'a>);

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
    let losses: [Loss<'_>; 5] = [
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
    emulator
        .faults()
        .refuse_attaches(HUB, Some("0"), "amqp:unauthorized-access", "claims", 1);
    let sender = client.open_sender(Some(&"0".into())).await;
    sender.unwrap().close().await;
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
pub(super) fn bomb(depth: usize) -> Event {
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
