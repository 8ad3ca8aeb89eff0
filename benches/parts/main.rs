//! What the parts cost that every cycle, event or checkpoint goes through, each alone and without IO.
//!
//! ```text
//! cargo bench --bench parts
//! cargo bench --bench parts -- plan
//! ```
//!
//! The parts are not public: `unstable-bench` gives access to them.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

mod message;
mod metadata;
mod plan;
mod tracker;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Long enough to compare two commits on a quiet machine.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = benches;
    config = short();
    targets = plan::benches, message::benches, tracker::benches, metadata::benches
}
criterion_main!(benches);

/// What the source imports that `tracker` compiles.
#[allow(unused_imports, reason = "the tests there do")]
mod model {
    pub(crate) use eventhubs_processor::{EventParts, Offset, ReceivedEvent};
}
