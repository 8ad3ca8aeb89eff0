//! What a checkpoint policy adds to an event: noting that it is done, and the decision to write now and then. The figure
//! is that of `EVENTS` events, given as events per second; a handler waits for it.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput};
use eventhubs_processor::{EventParts, ReceivedEvent};
use tokio::time::Instant;

use self::progress::{Cadence, Next, Place, Progress};

// Compiled into this program: it needs nothing but public types.
#[path = "../../src/processor/progress.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "its tests, and what is not measured"
)]
mod progress;

const EVENTS: i64 = 10_000;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tracker");
    group.throughput(Throughput::Elements(EVENTS.unsigned_abs()));
    let every_events = Cadence {
        events: Some(1_000),
        ..Cadence::default()
    };
    let every_so_often = Cadence {
        time: Some(Duration::from_secs(5)),
        ..Cadence::default()
    };
    let events: Vec<ReceivedEvent> = (0..EVENTS)
        .map(|number| EventParts::new(number, "4294967296", SystemTime::UNIX_EPOCH, ""))
        .map(ReceivedEvent::new)
        .collect();
    for (name, cadence) in [
        ("every 1000 events", every_events),
        ("every 5 s", every_so_often),
    ] {
        let start = Instant::now();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut progress = Progress::new(cadence, false);
                let mut writes = 0;
                for (number, event) in (0..).zip(&events) {
                    // A millisecond apart.
                    let now = start + Duration::from_millis(number);
                    let place = Place::of(event);
                    let has_to_look = progress.completed(place, 1, now);
                    if (has_to_look || number % 1_000 == 0)
                        && let Next::Write(place) = progress.next(now)
                    {
                        progress.write_began(&place);
                        progress.write_succeeded();
                        writes += 1;
                    }
                }
                assert!(writes > 0);
                black_box(progress)
            });
        });
    }
    group.finish();
}
