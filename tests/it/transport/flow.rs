//! How many events come, how fast, and what a receiver full of them does.

use super::*;

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
        let events = timeout(Duration::from_secs(5), receiver.receive(max))
            .await
            .unwrap()
            .unwrap();
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

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let (emulator, client) = setup().await;
    send(&emulator, "0", 0..6000);
    send(&emulator, "1", 0..500);
    let mut options = at("0", EventPosition::Earliest);
    options.prefetch = NonZeroU32::new(100_000).unwrap();
    let mut idle = client.open_receiver(options).await.unwrap();
    let mut busy = client
        .open_receiver(at("1", EventPosition::Earliest))
        .await
        .unwrap();
    receive(&mut busy, 500).await;
    receive(&mut idle, 6000).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_partitions_are_read_at_once() {
    let emulator = Emulator::builder()
        .with_hub(HUB, 1024)
        .start()
        .await
        .unwrap();
    let client = Arc::new(client(&emulator));
    let mut receivers = tokio::task::JoinSet::new();
    for partition in 0..1024 {
        let partition = partition.to_string();
        send(&emulator, &partition, 0..1);
        let client = Arc::clone(&client);
        receivers.spawn(async move {
            let mut receiver = client
                .open_receiver(at(&partition, EventPosition::Earliest))
                .await
                .unwrap();
            receive(&mut receiver, 1).await;
            receiver
        });
    }
    let receivers = receivers.join_all().await;
    assert_eq!(receivers.len(), 1024);
    // The emulator allows 256 sessions on a connection, of which `$cbs` takes one.
    assert_eq!(emulator.connection_count(), 5);
    let started = Instant::now();
    client.close().await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    eventually(|| emulator.connection_count() == 0).await;
    drop(receivers);
}
