//! How often operations are tried, in virtual time.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::checkpoint::InMemoryCheckpointStore;
use crate::retry::RetryMode;
use crate::transport::fake::FakeEventHub;

/// Fails an operation with each of `kinds` and then no more. What came of it, and how long it took.
async fn tried(
    retry: RetryOptions,
    kinds: &[TransportErrorKind],
) -> (Result<(), TransportErrorKind>, Duration) {
    let hub = FakeEventHub::new(1);
    for kind in kinds {
        hub.fail_next_partition_properties(*kind);
    }
    let client = EventHubConsumerClient::new(hub, "$Default", InMemoryCheckpointStore::new())
        .with_retry(retry);
    let begun = Instant::now();
    let result = client.partition_properties(&"0".into()).await;
    (
        result.map(drop).map_err(|error| error.kind()),
        begun.elapsed(),
    )
}

use TransportErrorKind as Kind;

fn is_between(took: Duration, least: f64, most: f64) -> bool {
    (least..=most).contains(&took.as_secs_f64())
}

#[tokio::test(start_paused = true)]
async fn trouble_that_passes_is_outlasted_three_times_and_no_more() {
    let three = [Kind::LinkDetached; 3];
    let (result, took) = tried(RetryOptions::default(), &three).await;
    assert_eq!(result, Ok(()));
    // 0.8, 1.6 and 3.2 s, each drawn from its upper half.
    assert!(is_between(took, 2.8, 5.61), "{took:?}");
    let (result, _) = tried(RetryOptions::default(), &[Kind::LinkDetached; 4]).await;
    assert_eq!(result, Err(Kind::LinkDetached));
    let none = RetryOptions::default().with_max_retries(0);
    let (result, took) = tried(none, &three).await;
    assert_eq!((result, took), (Err(Kind::LinkDetached), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_pass_is_tried_once() {
    for kind in [Kind::Unauthorized, Kind::NotFound, Kind::Rejected] {
        let (result, took) = tried(RetryOptions::default(), &[kind]).await;
        assert_eq!((result, took), (Err(kind), Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_is_given_four_seconds_each_time() {
    let (result, took) = tried(RetryOptions::default(), &[Kind::ServerBusy; 2]).await;
    assert_eq!(result, Ok(()));
    assert!(is_between(took, 8.0, 8.81), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn fixed_waits_stay_the_same() {
    let retry = RetryOptions::default()
        .with_mode(RetryMode::Fixed)
        .with_max_retries(10)
        .with_delay(Duration::from_secs(1), Duration::from_secs(60));
    let (result, took) = tried(retry, &[Kind::Timeout; 10]).await;
    assert_eq!(result, Ok(()));
    assert!(is_between(took, 5.0, 10.01), "{took:?}");
}
