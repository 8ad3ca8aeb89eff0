//! Several events of one partition at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::support::{FlakyStore, builder, eventually, kin_builder, stored};
use crate::error::{BuildError, ProcessingError, TransportErrorKind};
use crate::model::ReceivedEvent;
use crate::processor::{
    CheckpointPolicy, EventHandler, EventProcessorBuilder, FailureAction, FailurePolicy,
    HandlerResult, PartitionContext, handler_fn,
};
use crate::transport::fake::FakeEventHub;

fn at_once(builder: EventProcessorBuilder, concurrency: usize) -> EventProcessorBuilder {
    builder
        .with_concurrency(NonZeroUsize::new(concurrency).unwrap())
        // The bodies of these tests are "key:how long it takes in ms".
        .with_ordering_key(|event| key(event).map(str::to_owned))
}

fn key(event: &ReceivedEvent) -> Option<&str> {
    let body = std::str::from_utf8(event.body()).unwrap();
    body.split_once(':')
        .map(|(key, _)| key)
        .filter(|key| !key.is_empty())
}

fn takes(event: &ReceivedEvent) -> Duration {
    let body = std::str::from_utf8(event.body()).unwrap();
    let millis = body.split_once(':').unwrap().1;
    Duration::from_millis(millis.parse().unwrap())
}

/// Notes when which event began and ended.
#[derive(Clone, Default)]
struct Log {
    entries: Arc<Mutex<Vec<Entry>>>,
    failures: Arc<Mutex<Failures>>,
    errors: Arc<Mutex<Vec<String>>>,
    checkpoints: bool,
}

/// Events that fail so often, and with what.
type Failures = BTreeMap<i64, (usize, Option<FailureAction>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    number: i64,
    key: Option<String>,
    began: Instant,
    ended: Option<Instant>,
    is_ok: bool,
}

impl Log {
    fn failing(self, number: i64, times: usize, action: Option<FailureAction>) -> Self {
        self.failures
            .lock()
            .unwrap()
            .insert(number, (times, action));
        self
    }

    fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// Events that were processed, in the order in which they ended.
    fn done(&self) -> Vec<i64> {
        let mut done: Vec<_> = self.entries().into_iter().filter(|e| e.is_ok).collect();
        done.sort_by_key(|entry| entry.ended);
        done.into_iter().map(|entry| entry.number).collect()
    }

    async fn until_done(&self, events: usize) {
        eventually(&format!("{events} events are done"), || async {
            let mut done = self.done();
            done.sort_unstable();
            done.dedup();
            done.len() >= events
        })
        .await;
    }

    /// Within a key, nothing began before the one before it was done, and never more than `most` ran at once.
    fn check_order(&self, most: usize) {
        let entries = self.entries();
        for (index, later) in entries.iter().enumerate() {
            let running = entries
                .iter()
                .filter(|e| {
                    e.began <= later.began && e.ended.is_none_or(|ended| ended > later.began)
                })
                .count();
            assert!(running <= most, "{running} at once");
            for earlier in &entries[..index] {
                if earlier.key.is_some() && earlier.key == later.key {
                    assert!(
                        earlier.ended.is_some_and(|ended| ended <= later.began),
                        "{later:?} before the end of {earlier:?}"
                    );
                }
            }
        }
    }
}

impl EventHandler for Log {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let index = {
            let mut entries = self.entries.lock().unwrap();
            entries.push(Entry {
                number: event.sequence_number(),
                key: key(&event).map(str::to_owned),
                began: Instant::now(),
                ended: None,
                is_ok: false,
            });
            entries.len() - 1
        };
        tokio::time::sleep(takes(&event)).await;
        let failure = {
            let mut failures = self.failures.lock().unwrap();
            match failures.get_mut(&event.sequence_number()) {
                Some((times, action)) if *times > 0 => {
                    *times -= 1;
                    Some(*action)
                }
                _ => None,
            }
        };
        let mut is_ok = failure.is_none();
        if is_ok && self.checkpoints {
            is_ok = context.update_checkpoint(&event).await.is_ok();
        }
        let entry = &mut self.entries.lock().unwrap()[index];
        (entry.ended, entry.is_ok) = (Some(Instant::now()), is_ok);
        match failure {
            Some(Some(action)) => Err(action.because("on request")),
            Some(None) => Err("on request".into()),
            None => Ok(()),
        }
    }

    async fn on_error(&self, _context: Option<&PartitionContext>, error: &ProcessingError) {
        self.errors.lock().unwrap().push(error.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_of_five_milliseconds_reach_ten_thousand_events_a_second() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for number in 0..10_000 {
        hub.send("0", format!("{}:5", number % 512));
    }
    let log = Log::default();
    let handle = at_once(builder(&hub, &store, "me"), 64)
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(log.clone())
        .unwrap()
        .spawn();
    eventually("the first event", || async { !log.entries().is_empty() }).await;
    let begun = Instant::now();
    eventually("all are done", || async {
        log.entries
            .lock()
            .unwrap()
            .iter()
            .filter(|entry| entry.is_ok)
            .count()
            == 10_000
    })
    .await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "10,000 events took {took:?}");
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(9_999));
}

#[tokio::test(start_paused = true)]
async fn within_a_key_events_run_in_order_and_one_at_a_time() {
    for seed in 0..20 {
        run_random_keys(seed).await;
    }
}

async fn run_random_keys(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..300 {
        let key = ["", "a", "b", "c", "d", "e", "f"][rng.random_range(0..7)];
        hub.send("0", format!("{key}:{}", rng.random_range(0..50)));
    }
    let mut log = Log::default();
    for _ in 0..10 {
        log = log.failing(rng.random_range(0..300), rng.random_range(1..3), None);
    }
    let handle = at_once(builder(&hub, &store, "me"), 4)
        .with_failure_policy(FailurePolicy::retry(5))
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(log.clone())
        .unwrap()
        .spawn();
    log.until_done(300).await;
    log.check_order(4);
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(299), "seed {seed}");
    assert_eq!(log.done().len(), 300, "none twice; seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn one_slow_event_lets_the_others_go_on_until_the_window_is_full() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    hub.send("0", "slow:30000");
    for number in 1..100 {
        hub.send("0", format!("{number}:1"));
    }
    let log = Log::default();
    let handle = at_once(builder(&hub, &store, "me"), 8)
        .with_max_in_flight(NonZeroUsize::new(40).unwrap())
        .with_checkpoint_policy(CheckpointPolicy::Every(Duration::from_secs(1)))
        .build(log.clone())
        .unwrap()
        .spawn();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let done = log.done().len();
    // The link may be asked for one more each time that it is asked for news.
    assert!((39..=99).contains(&done), "{done}");
    assert_eq!(stored(&store, "0").await, None, "the first is not done");
    log.until_done(100).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stored(&store, "0").await, Some(99));
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_asked_for_waits_for_everything_before_it() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for body in ["a:5000", "b:10", "c:10"] {
        hub.send("0", body);
    }
    let log = Log {
        checkpoints: true,
        ..Log::default()
    };
    let handle = at_once(builder(&hub, &store, "me"), 8)
        .build(log.clone())
        .unwrap()
        .spawn();
    eventually("two are done", || async { log.done() == [1, 2] }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stored(&store, "0").await, None);
    eventually("the last is checkpointed", || async {
        stored(&store, "0").await == Some(2)
    })
    .await;
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_nothing_is_checkpointed_that_nobody_asked_for() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for _ in 0..5 {
        hub.send("0", "a:1");
    }
    let handler = handler_fn(async |context: PartitionContext, event: ReceivedEvent| {
        if event.sequence_number() == 2 {
            context.update_checkpoint(&event).await?;
        }
        Ok(())
    });
    let handle = at_once(builder(&hub, &store, "me"), 8)
        .build(handler)
        .unwrap()
        .spawn();
    eventually("it is checkpointed", || async {
        stored(&store, "0").await.is_some()
    })
    .await;
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_failure_holds_up_its_key_alone() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for body in ["a:1", "b:1", "a:1", "b:1"] {
        hub.send("0", body);
    }
    let log = Log::default().failing(0, 3, Some(FailureAction::Retry));
    let handle = at_once(builder(&hub, &store, "me"), 8)
        .build(log.clone())
        .unwrap()
        .spawn();
    log.until_done(4).await;
    assert_eq!(log.done(), [1, 3, 0, 2]);
    handle.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_ends_the_term_lets_the_others_finish_and_repeats_from_the_checkpoint() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for body in ["a:1", "b:100", "c:300", "d:1"] {
        hub.send("0", body);
    }
    let log = Log::default().failing(1, 1, None);
    let handle = at_once(builder(&hub, &store, "me"), 8)
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(log.clone())
        .unwrap()
        .spawn();
    eventually("what was not done is repeated", || async {
        log.done().len() == 6
    })
    .await;
    // 0 was done and checkpointed; the call of 2 was not cut.
    assert_eq!(log.done(), [0, 3, 2, 3, 1, 2]);
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_loses_nothing_and_repeats_nothing() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for number in 0..60 {
        hub.send("0", format!("{}:{}", number % 7, 100 + number % 13));
    }
    let log = Log::default();
    let handle = at_once(builder(&hub, &store, "me"), 5)
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(log.clone())
        .unwrap()
        .spawn();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        hub.disconnect("0", TransportErrorKind::LinkDetached);
    }
    log.until_done(60).await;
    log.check_order(5);
    assert_eq!(log.done().len(), 60);
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(59));
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_repeats_nothing() {
    let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
    let log = Log::default();
    let start = |name: &str| {
        at_once(kin_builder(&hub, &store, name), 6)
            .with_checkpoint_policy(CheckpointPolicy::Automatic)
            .build(log.clone())
            .unwrap()
            .spawn()
    };
    let mut members = vec![start("a"), start("b")];
    let mut sent = 0;
    for round in 0..600 {
        for partition in ["0", "1", "2", "3"] {
            // Two of a slow key, then a quick one, which is done before the second slow one begins.
            for body in ["slow:40", "slow:40", "quick:1"] {
                hub.send(partition, body);
                sent += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if round % 100 == 50 {
            members.push(start(&format!("new{round}")));
            let old = members.remove(0);
            tokio::spawn(old.shutdown());
        }
    }
    eventually("all is done", || async { log.done().len() >= sent }).await;
    assert_eq!(log.done().len(), sent, "none twice");
    for member in members {
        member.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_or_paused_partition_takes_no_more_than_the_window_and_a_little() {
    for is_paused in [false, true] {
        let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
        hub.send("0", if is_paused { "a:1" } else { "a:90000000" });
        let log = Log::default();
        let handle = at_once(builder(&hub, &store, "me"), 4)
            .with_max_in_flight(NonZeroUsize::new(10).unwrap())
            .build(log.clone())
            .unwrap()
            .spawn();
        eventually("the first event", || async { !log.entries().is_empty() }).await;
        if is_paused {
            handle.pause(&"0".into());
        }
        for _ in 0..5000 {
            hub.send("0", "a:1");
        }
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let taken = hub.taken("0");
        assert!(taken <= 300, "{taken} of 5,001, paused: {is_paused}");
        drop(handle);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_function_that_panics_costs_no_event() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    for body in ["a:1", "b:1", "c:1"] {
        hub.send("0", body);
    }
    let log = Log::default();
    let handle = at_once(builder(&hub, &store, "me"), 4)
        .with_ordering_key(|event| {
            assert_ne!(event.sequence_number(), 1, "on request");
            Some(event.sequence_number())
        })
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .build(log.clone())
        .unwrap()
        .spawn();
    log.until_done(3).await;
    handle.shutdown().await.unwrap();
    assert_eq!(stored(&store, "0").await, Some(2));
    assert_eq!(*log.errors.lock().unwrap(), ["`ordering_key` panicked"]);
}

#[tokio::test]
async fn what_does_not_go_together_is_refused() {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let refused = at_once(builder(&hub, &store, "me"), 2)
        .with_max_batch_size(NonZeroUsize::MIN)
        .build(Log::default())
        .unwrap_err();
    assert!(
        matches!(
            refused,
            BuildError::InvalidOption {
                option: "concurrency",
                ..
            }
        ),
        "{refused}"
    );
    let refused = at_once(builder(&hub, &store, "me"), 2)
        .with_max_in_flight(NonZeroUsize::MIN)
        .build(Log::default())
        .unwrap_err();
    assert!(
        matches!(
            refused,
            BuildError::InvalidOption {
                option: "max_in_flight",
                ..
            }
        ),
        "{refused}"
    );
}
