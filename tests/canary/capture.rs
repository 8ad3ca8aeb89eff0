//! Everything that this process says: the log of all crates, panics, metrics, and what the test was shown.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The threads of an emulator with WebSockets.
pub(crate) const EMULATOR_THREAD: &str = "emulator";

#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// Listens to all threads from now on.
    pub(crate) fn start() -> Self {
        let capture = Self::default();
        // The emulator is a stand-in for a service, whose WebSockets are none of ours and log what they carry.
        let ours = dynamic_filter_fn(|about, _| {
            let is_of_the_emulator = std::thread::current().name() == Some(EMULATOR_THREAD);
            !(is_of_the_emulator && about.target().starts_with("tungstenite"))
        });
        let lines = tracing_subscriber::fmt::layer()
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(capture.clone())
            .with_filter(ours);
        tracing_subscriber::registry().with(lines).init();
        metrics::set_global_recorder(capture.clone()).unwrap();
        let panics = capture.clone();
        let printed = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            panics.add(&format!("panic: {panic}"));
            printed(panic);
        }));
        capture
    }

    pub(crate) fn add(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }

    pub(crate) fn text(&self) -> String {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Capture {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Of a metric, what can hold text is its name and its labels.
impl Recorder for Capture {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&text);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&text);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.add(&format!("metric {key:?}"));
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.add(&format!("metric {key:?}"));
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.add(&format!("metric {key:?}"));
        Histogram::noop()
    }
}
