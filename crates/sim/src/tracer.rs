//! Listens to the library's log, for the marks that only it can tell.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::marks::Mark;
use crate::world::World;

/// Messages of the library, by how they begin. A changed message is noticed: its mark is not reached any more.
const MESSAGES: [(&str, Mark); 4] = [
    ("ownership is proven again", Mark::ProvenAgain),
    (
        "dropped an event that was delivered before",
        Mark::RepeatDropped,
    ),
    ("handlers still ran at the end", Mark::StopCutHandler),
    ("not everything was given back", Mark::StopLeftOwnership),
];

/// A subscriber for the thread of one run.
#[derive(Debug)]
pub(crate) struct Tracer {
    world: World,
}

impl Tracer {
    pub(crate) fn new(world: World) -> Self {
        Self { world }
    }
}

impl Subscriber for Tracer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("eventhubs_processor")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message(&self.world));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message<'a>(&'a World);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            return;
        }
        let text = format!("{value:?}");
        for (begin, mark) in MESSAGES {
            if text.starts_with(begin) {
                self.0.reach(mark);
            }
        }
    }
}
