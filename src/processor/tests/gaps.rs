//! Events that are missing from what a link brings, or from the log.

use std::num::NonZeroUsize;

use super::support::{FlakyStore, Recorder, Seen, builder, delivered, eventually, stored};
use crate::processor::EventProcessorBuilder;
use crate::transport::fake::FakeEventHub;

fn told(recorder: &Recorder) -> Vec<String> {
    let errors = recorder.seen().into_iter().filter_map(|seen| match seen {
        Seen::Error(_, error) => Some(error),
        _ => None,
    });
    errors.collect()
}

/// Three events, then a link that passes over three more.
async fn passed_over(
    hub: &FakeEventHub,
    change: impl FnOnce(EventProcessorBuilder) -> EventProcessorBuilder,
) -> (Recorder, FlakyStore, crate::processor::ProcessorHandle) {
    let store = FlakyStore::new();
    let recorder = Recorder::new();
    for _ in 0..3 {
        hub.send("0", "a");
    }
    let handle = change(builder(hub, &store, "me"))
        .build(recorder.clone())
        .unwrap()
        .spawn();
    eventually("the first three", || async {
        stored(&store, "0").await == Some(2)
    })
    .await;
    hub.jump_to("0", 6);
    for _ in 0..5 {
        hub.send("0", "a");
    }
    (recorder, store, handle)
}

#[tokio::test(start_paused = true)]
async fn what_a_link_passes_over_is_read_by_the_next() {
    let hub = FakeEventHub::new(1);
    let (recorder, _store, handle) = passed_over(&hub, |builder| builder).await;
    delivered(&recorder, "0", &(0..8).collect::<Vec<_>>()).await;
    assert_eq!(told(&recorder), Vec::<String>::new());
    assert_eq!(hub.opened_after("0"), [None, Some(2)], "asked again once");
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_with_several_events_at_a_time() {
    let hub = FakeEventHub::new(1);
    let (recorder, _store, handle) =
        passed_over(&hub, |b| b.with_concurrency(NonZeroUsize::new(4).unwrap())).await;
    eventually("all of them", || async {
        let mut events = recorder.events("0");
        events.sort_unstable();
        events == (0..8).collect::<Vec<_>>()
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_in_batches_which_end_before_the_gap() {
    let hub = FakeEventHub::new(1);
    let (recorder, _store, handle) = passed_over(&hub, |b| {
        b.with_max_batch_size(NonZeroUsize::new(100).unwrap())
    })
    .await;
    eventually("all of them", || async {
        let batches = recorder.seen().into_iter().filter_map(|seen| match seen {
            Seen::Batch(_, numbers) => Some(numbers),
            _ => None,
        });
        batches.flatten().collect::<Vec<_>>() == (0..8).collect::<Vec<_>>()
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_log_does_not_hold_is_told_and_reading_goes_on() {
    let hub = FakeEventHub::new(1);
    let (recorder, store, handle) = passed_over(&hub, |builder| builder).await;
    // Before anybody asks again.
    hub.expire("0", 6);
    delivered(&recorder, "0", &[0, 1, 2, 6, 7]).await;
    assert_eq!(
        told(&recorder),
        ["3 events after sequence number 2 have expired unread"]
    );
    assert_eq!(hub.opened_at("0").len(), 2, "asked again once");
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(7));
}
