//! A service that sends what it should not, and a processor that loses, repeats and reorders nothing over it.

use eventhubs_emulator::{BadFrame, Faults};

use crate::processor::{HUB, Log, builder, emulator, noting, send};

/// Orders a fault between two lots of events, and expects each of them once and in order.
async fn survives(what: &str, order: impl Fn(&Faults)) {
    let emulator = emulator(1).await;
    let log = Log::default();
    let handle = builder(&emulator).build(noting(&log)).unwrap().spawn();
    send(&emulator, 1, 5);
    log.until(5).await;
    order(&emulator.faults());
    send(&emulator, 1, 20);
    log.until(25).await;
    handle.shutdown().await.unwrap();
    assert_eq!(log.of("0"), (0..25).collect::<Vec<_>>(), "{what}");
    let acted: u64 = emulator.faults().counts().values().sum();
    assert!(acted > 0, "{what}: the fault has not acted");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_asked_for() {
    survives("beyond the credit", |faults| {
        faults.over_send(HUB, None, 400, 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_or_delivery_id_twice() {
    survives("an event twice", |faults| {
        faults.duplicate_deliveries(HUB, None, 3)
    })
    .await;
    survives("an id twice", |faults| {
        faults.repeat_delivery_ids(HUB, None, 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_out_of_order_or_missing() {
    survives("swapped", |faults| faults.reorder_deliveries(HUB, None, 2)).await;
    survives("left out", |faults| faults.skip_deliveries(HUB, None, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_after_a_checkpoint_missing() {
    let emulator = emulator(1).await;
    let log = Log::default();
    send(&emulator, 1, 5);
    let first = builder(&emulator).build(noting(&log)).unwrap().spawn();
    log.until(5).await;
    first.shutdown().await.unwrap();
    emulator.faults().skip_deliveries(HUB, None, 2);
    send(&emulator, 1, 5);
    let second = builder(&emulator).build(noting(&log)).unwrap().spawn();
    log.until(10).await;
    second.shutdown().await.unwrap();
    assert_eq!(log.of("0"), (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_two_events_mixed_or_a_delivery_taken_back() {
    survives("mixed", |faults| faults.interleave_deliveries(HUB, None, 1)).await;
    survives("aborted", |faults| faults.abort_deliveries(HUB, None, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_larger_than_the_link_takes() {
    survives("too large", |faults| {
        faults.inflate_deliveries(HUB, None, 2_000_000, 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none() {
    for frame in [
        BadFrame::SizeTooSmall,
        BadFrame::OffsetTooSmall,
        BadFrame::Oversize,
        BadFrame::UnknownType,
        BadFrame::Garbage,
    ] {
        survives(&format!("{frame:?}"), |faults| faults.send_bad_frame(frame)).await;
    }
}
