//! One event hub, and one run of one client on it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::clients::{Client, Places};
use crate::process::Process;

const HUB: &str = "bench";
/// Where keys matter.
const KEYS: u64 = 1_000;
/// More than any handler that takes a millisecond gets through in a sample.
const SLOW_EVENTS: u64 = 200_000;
const CHECKPOINT_EVERY: u64 = 1_000;
/// The slowest has taken three seconds on a busy machine.
const FIRST_EVENT: Duration = Duration::from_secs(20);
/// Beyond the time of the sample itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// To fill the event hub.
const FILLING: Duration = Duration::from_secs(300);
/// What the emulator keeps for an event besides its body.
const OVERHEAD: u64 = 210;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) partitions: u32,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// How long the handler waits in place of work. The clients that it would only show to be idle do not take part.
    pub(crate) handler_ms: u64,
}

impl Load {
    /// Where one partition is read by a handler that takes its time.
    pub(crate) const SLOW_HANDLER: Self = Self {
        partitions: 1,
        size: 1024,
        handler_ms: 5,
    };

    pub(crate) fn is_slow(&self) -> bool {
        self.handler_ms > 0
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions = match self.partitions {
            1 => "1 partition".to_owned(),
            more => format!("{more} partitions"),
        };
        write!(f, "{partitions}, {} B", self.size)?;
        if self.is_slow() {
            write!(f, ", a handler of {} ms, {KEYS} keys", self.handler_ms)?;
        }
        Ok(())
    }
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) settle: Duration,
    pub(crate) sample: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) events_per_second: f64,
    pub(crate) cpu_per_event_us: f64,
    pub(crate) cores: f64,
    pub(crate) peak_rss_mib: f64,
    /// From the start of the process.
    pub(crate) first_event_ms: f64,
    /// From the moment at which the client was made.
    pub(crate) first_event_since_run_ms: f64,
    /// Partitions that any event came from.
    pub(crate) partitions: u32,
}

#[derive(Deserialize)]
struct Sample {
    seconds: f64,
    events: u64,
    cpu_us: f64,
    partitions: u32,
    /// Events of the partition with the most of them.
    most: u64,
}

/// The emulator with a full event hub.
#[derive(Debug)]
pub(crate) struct Server {
    _process: Process,
    load: Load,
    amqp_port: u64,
    tls_port: u64,
    /// In each partition.
    pub(crate) events: u64,
}

impl Server {
    pub(crate) fn start(places: &Places, load: Load, backlog_mib: u64) -> Result<Self, String> {
        let room = (backlog_mib << 20) / (load.size as u64 + OVERHEAD);
        let (events, keys) = match load.is_slow() {
            true => (room.min(SLOW_EVENTS), KEYS),
            false => (room / u64::from(load.partitions), 0),
        };
        let command = [
            places.beside("peers-server").into(),
            format!("--hub={HUB}").into(),
            format!("--partitions={}", load.partitions).into(),
            format!("--size={}", load.size).into(),
            format!("--events={events}").into(),
            format!("--keys={keys}").into(),
            format!("--ca-file={}", places.scratch.join("ca.pem").display()).into(),
        ];
        let process = Process::start(&command, &[], &places.log("server"))?;
        let ready = process.line(FILLING, "full event hub")?;
        let port = |name: &str| ready[name].as_u64().ok_or_else(|| format!("no {name}"));
        Ok(Self {
            amqp_port: port("amqp_port")?,
            tls_port: port("tls_port")?,
            _process: process,
            load,
            events,
        })
    }

    /// A new process of the client reads from the first event on, in a consumer group of its own memory.
    pub(crate) fn run(
        &self,
        client: &Client,
        places: &Places,
        times: Times,
    ) -> Result<Figures, String> {
        let settings = [
            ("HUB", HUB.to_owned()),
            ("AMQP_PORT", self.amqp_port.to_string()),
            ("TLS_PORT", self.tls_port.to_string()),
            ("PARTITIONS", self.load.partitions.to_string()),
            ("EVENTS", self.events.to_string()),
            ("CHECKPOINT_EVERY", CHECKPOINT_EVERY.to_string()),
            ("HANDLER_MS", self.load.handler_ms.to_string()),
            ("SETTLE_MS", times.settle.as_millis().to_string()),
            ("SAMPLE_MS", times.sample.as_millis().to_string()),
            (
                "SSL_CERT_FILE",
                places.scratch.join("ca.pem").display().to_string(),
            ),
            ("PEERS_JS", places.js.display().to_string()),
        ];
        let log = places.log(client.name);
        let process = Process::start(&client.command(places), &settings, &log)?;
        self.measure(&process, client, times).map_err(|error| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            match said.lines().rfind(|line| !line.trim().is_empty()) {
                Some(last) => format!("{error}; it said: {last}"),
                None => error,
            }
        })
    }

    fn measure(&self, process: &Process, client: &Client, times: Times) -> Result<Figures, String> {
        let first = process.line(FIRST_EVENT, "first event")?;
        let first_event = process.started.elapsed();
        let since_run = first["first"]["since_run_ms"].as_f64();
        let mut line = process.line(times.settle + times.sample + PATIENCE, "sample")?;
        let peak_rss = process.peak_rss()?;
        let sample: Sample = serde_json::from_value(line["sample"].take())
            .map_err(|error| format!("{line}: {error}"))?;
        if sample.events == 0 {
            return Err("no event in the sample".to_owned());
        }
        // The emulator's limit is read over and over.
        if sample.most >= self.events && client.name != "limit" {
            return Err(format!(
                "it has read all {} events of a partition: give --backlog-mib",
                self.events
            ));
        }
        Ok(Figures {
            events_per_second: sample.events as f64 / sample.seconds,
            cpu_per_event_us: sample.cpu_us / sample.events as f64,
            cores: sample.cpu_us / sample.seconds / 1e6,
            peak_rss_mib: peak_rss as f64 / 1024.0,
            first_event_ms: first_event.as_secs_f64() * 1e3,
            first_event_since_run_ms: since_run.ok_or_else(|| format!("no time in {first}"))?,
            partitions: sample.partitions,
        })
    }
}

/// The load of the last minute, as the system has it.
pub(crate) fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}
