//! What the `metrics` facade is told.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::time::sleep;

use super::support::{Act, FlakyStore, Recorder as Handler, builder, delivered, eventually};
use crate::error::LastError;
use crate::processor::{CheckpointPolicy, FailureAction, FailurePolicy};
use crate::transport::fake::FakeEventHub;

/// Keeps the last value, or the sum, under the name with the labels that tell instances apart.
#[derive(Clone, Debug, Default)]
struct Kept {
    values: Arc<Mutex<BTreeMap<String, Arc<Value>>>>,
    described: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Default)]
struct Value {
    bits: AtomicU64,
    records: AtomicU64,
}

impl Value {
    fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

impl CounterFn for Value {
    fn increment(&self, value: u64) {
        self.set(self.get() + value as f64);
    }

    fn absolute(&self, _: u64) {
        panic!("two processors of one program would overwrite each other");
    }
}

impl GaugeFn for Value {
    fn increment(&self, _: f64) {
        panic!("gauges are set");
    }

    fn decrement(&self, _: f64) {
        panic!("gauges are set");
    }

    fn set(&self, value: f64) {
        Self::set(self, value);
    }
}

impl HistogramFn for Value {
    fn record(&self, value: f64) {
        self.set(self.get() + value);
        self.records.fetch_add(1, Ordering::Relaxed);
    }
}

impl Kept {
    fn value(&self, key: &Key) -> Arc<Value> {
        let labels: BTreeMap<_, _> = key.labels().map(|l| (l.key(), l.value())).collect();
        assert_eq!(labels["messaging.system"], "eventhubs");
        assert_eq!(labels["server.address"], "fake.servicebus.windows.net");
        assert_eq!(labels["messaging.destination.name"], "hub");
        assert_eq!(labels["messaging.consumer.group.name"], "$Default");
        let mut name = key.name().to_owned();
        for label in ["messaging.destination.partition.id", "operation", "service"] {
            if let Some(value) = labels.get(label) {
                name = format!("{name} {value}");
            }
        }
        Arc::clone(self.values.lock().unwrap().entry(name).or_default())
    }

    fn get(&self, name: &str) -> f64 {
        let values = self.values.lock().unwrap();
        values
            .get(name)
            .unwrap_or_else(|| panic!("{name} of {:?}", values.keys()))
            .get()
    }

    fn describe(&self, key: &KeyName) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.value(key))
    }
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_the_status_reach_the_recorder_until_the_end() {
    let kept = Kept::default();
    let _recorder = metrics::set_default_local_recorder(&kept);
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let handler = Handler::without_checkpoints()
        .acting("0", 2, Act::Fail(1))
        .taking(Duration::from_millis(250));
    let handle = builder(&hub, &store, "me")
        .with_failure_policy(FailurePolicy::retry(0).then(FailureAction::Skip))
        .with_checkpoint_policy(CheckpointPolicy::EveryEvents(NonZeroU64::new(4).unwrap()))
        .build(handler.clone())
        .unwrap()
        .spawn();
    for _ in 0..4 {
        hub.send("0", "a");
    }
    delivered(&handler, "0", &[0, 1, 2, 3]).await;
    sleep(Duration::from_secs(61)).await;
    handle.pause(&"0".into());
    hub.send("0", "b");
    hub.send("0", "b");
    // Asked for once a minute, more or less.
    sleep(Duration::from_secs(61)).await;
    eventually("the lag is known", || async {
        kept.get("eventhubs.processor.lag.events 0") > 0.0
    })
    .await;

    assert_eq!(kept.get("messaging.client.consumed.messages 0"), 4.0);
    assert_eq!(kept.get("messaging.process.duration 0"), 1.0);
    let durations = Arc::clone(&kept.values.lock().unwrap()["messaging.process.duration 0"]);
    assert_eq!(durations.records.load(Ordering::Relaxed), 4);
    assert_eq!(kept.get("eventhubs.processor.events.processed 0"), 4.0);
    assert_eq!(kept.get("eventhubs.processor.events.skipped 0"), 1.0);
    assert_eq!(kept.get("eventhubs.processor.handler.failures 0"), 1.0);
    assert_eq!(kept.get("eventhubs.processor.lag.events 0"), 2.0);
    assert!(kept.get("eventhubs.processor.lag.time 0") > 0.0);
    assert_eq!(kept.get("eventhubs.processor.partitions.owned"), 1.0);
    assert_eq!(kept.get("eventhubs.processor.load_balancing.claims"), 1.0);
    assert_eq!(
        kept.get("eventhubs.processor.storage.operations update_checkpoint"),
        1.0
    );
    assert_eq!(kept.get("eventhubs.processor.partition.stalls 0"), 0.0);

    let failing = |service| {
        kept.get(&format!(
            "eventhubs.processor.credentials.failing {service}"
        ))
    };
    assert_eq!((failing("event_hub"), failing("store")), (0.0, 0.0));
    store.set_credential_error(Some(LastError::new("no", SystemTime::UNIX_EPOCH)));
    sleep(Duration::from_secs(2)).await;
    assert_eq!((failing("event_hub"), failing("store")), (0.0, 1.0));

    handle.resume(&"0".into());
    delivered(&handler, "0", &[0, 1, 2, 3, 4, 5]).await;
    let status = handle.status_watch();
    handle.shutdown().await.unwrap();
    // The last numbers, too, and nothing is left standing.
    assert_eq!(kept.get("eventhubs.processor.events.processed 0"), 6.0);
    assert_eq!(kept.get("eventhubs.processor.lag.events 0"), 0.0);
    assert_eq!(kept.get("eventhubs.processor.partitions.owned"), 0.0);
    assert_eq!(failing("store"), 0.0);
    let claims = kept.get("eventhubs.processor.storage.operations claim_ownership");
    assert_eq!(claims, status.status().storage.claim_ownership as f64);

    let mut described = kept.described.lock().unwrap().clone();
    described.sort();
    let mut named: Vec<_> = kept
        .values
        .lock()
        .unwrap()
        .keys()
        .map(|name| name.split(' ').next().unwrap().to_owned())
        .collect();
    named.dedup();
    assert_eq!(described, named, "every number has its description");
    let documented = include_str!("../../observability.md");
    for name in &named {
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} stands in observability.md"
        );
    }
}
