//! What each client does on its own: properties, sending, receiving, owner levels.

use std::time::{Duration, UNIX_EPOCH};

use eventhubs_emulator::{Emulator, Event, RecordedEvent};
use serde_json::{Value, json};

use super::Stranger;
use super::processor::own_processor;
use super::table::{Cell, Column, Feature};
use crate::program::{Command, Program};
use crate::setup::{Blobs, START, Tools, emulator_at_5672, poll, within};

/// The event hub that is read: partition 0 is empty, 1 has ten events, 3 is for owner levels.
const READ: &str = "read";
/// The event hub that is written to.
const SENT: &str = "sent";
/// What is started at for the positions within the partition.
const MIDDLE: usize = 4;
/// To be there, on a busy machine.
const WAIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn python_works_with_the_emulator() {
    works("python_works_with_the_emulator", Stranger::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_aio_works_with_the_emulator() {
    works("python_aio_works_with_the_emulator", Stranger::PythonAio).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_works_with_the_emulator() {
    works("javascript_works_with_the_emulator", Stranger::Js).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_0_15_works_with_the_emulator() {
    works("rust_0_15_works_with_the_emulator", Stranger::Rust015).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_0_16_works_with_the_emulator() {
    works("rust_0_16_works_with_the_emulator", Stranger::Rust016).await;
}

async fn works(test: &str, stranger: Stranger) {
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(400), async {
        let hubs = Hubs::start(&tools, stranger).await;
        let mut column = Column::of(stranger);
        hubs.features(&mut column).await;
        column.set(Feature::Latest, &hubs.latest().await);
        hubs.owner_levels(&mut column).await;
        for blobs in [Blobs::Emulator, Blobs::Azurite] {
            let cell = own_processor(&tools, stranger, blobs).await;
            column.set(Feature::Processor(blobs), &cell);
        }
        hubs.emulator.stop().await;
        column.settle();
    })
    .await;
}

/// An emulator with what the programs expect.
struct Hubs<'a> {
    tools: &'a Tools,
    stranger: Stranger,
    emulator: Emulator,
    record: Vec<RecordedEvent>,
}

impl<'a> Hubs<'a> {
    async fn start(tools: &'a Tools, stranger: Stranger) -> Self {
        let emulator =
            emulator_at_5672(|builder| builder.with_hub(READ, 4).with_hub(SENT, 4)).await;
        for number in 0..10_i64 {
            let event = Event::new([&[0x00, 0xff], format!("read {number}").as_bytes()].concat())
                .with_property("n", number)
                .with_partition_key(format!("key {number}"));
            emulator.send(READ, Some("1"), event).unwrap();
            // Each has a time of its own then.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        Self {
            tools,
            stranger,
            record: emulator.events(READ, "1").unwrap(),
            emulator,
        }
    }

    fn program(&self, mode: &str) -> Command {
        let middle = &self.record[MIDDLE];
        self.stranger
            .features(self.tools)
            .arg(mode)
            .env(
                "EVENTHUBS_CONNECTION_STRING",
                self.emulator.event_hubs_connection_string(),
            )
            .env("EVENTHUB_NAME", READ)
            .env("SEND_EVENTHUB_NAME", SENT)
            .env("MIDDLE_OFFSET", &middle.offset)
            .env("MIDDLE_SEQUENCE_NUMBER", middle.sequence_number.to_string())
            .env("MIDDLE_TIME_MS", milliseconds(middle).to_string())
            .env("LAST_SEQUENCE_NUMBER", "9")
    }

    async fn features(&self, column: &mut Column) {
        let mut program = self.program("features").spawn();
        program.exited(Duration::from_secs(240)).await;
        program.succeeded();
        let told = Told(&program);
        self.properties(&told, column);
        self.sent(&told, column);
        for position in POSITIONS {
            let feature = Feature::Position(position.name);
            let cell = told.unsupported(position.name).unwrap_or_else(|| {
                let received = told.received(position.name);
                self.judge(position, &received, &program)
            });
            column.set(feature, &cell);
        }
        column.set(Feature::LastEnqueued, &self.last_enqueued(&told));
    }

    fn properties(&self, told: &Told<'_>, column: &mut Column) {
        let hub = told.one("hub");
        assert_eq!(hub["name"], READ);
        assert_eq!(hub["partition_ids"], json!(["0", "1", "2", "3"]));
        let created = UNIX_EPOCH + Duration::from_millis(hub["created_ms"].as_u64().unwrap());
        let age = self.record[0].enqueued_time.duration_since(created);
        assert!(age.unwrap() < Duration::from_secs(60), "{hub}");
        column.set(Feature::HubProperties, &Cell::Works);

        let partitions = told.all("partition");
        let last = &self.record[9];
        let expected = json!({
            "hub": READ, "id": "1", "begin": 0, "last": 9, "last_offset": last.offset,
            "last_time_ms": milliseconds(last), "is_empty": false,
        });
        assert_eq!(partitions[1], expected);
        assert_eq!(partitions[0]["id"], "0");
        assert_eq!(partitions[0]["last"], -1);
        assert_eq!(partitions[0]["is_empty"], true);
        column.set(Feature::PartitionProperties, &Cell::Works);
    }

    /// All that was sent is in the partitions where it belongs, once, in order, and nothing else is.
    fn sent(&self, told: &Told<'_>, column: &mut Column) {
        let of = |partition: usize| self.emulator.events(SENT, &partition.to_string()).unwrap();
        let mut partitions: Vec<_> = (0..4).map(of).collect();
        for (label, feature, count, key, partition) in [
            ("single", Feature::SendSingle, 1, None, None),
            ("batch", Feature::SendBatch, 100, None, None),
            // "7" belongs to partition 3 of 4 by the service's hash.
            ("key", Feature::SendKey, 5, Some("7"), Some(3)),
            ("partition", Feature::SendPartition, 5, None, Some(2)),
            ("buffered", Feature::SendBuffered, 50, None, None),
        ] {
            if let Some(reason) = told.unsupported(label) {
                column.set(feature, &reason);
                continue;
            }
            assert!(told.all("sent").contains(&json!(label)), "{:?}", told.0);
            let mut found: Vec<_> = (0..4)
                .map(|at| take(&mut partitions[at], label))
                .enumerate()
                .filter(|(_, events)| !events.is_empty())
                .collect();
            let bodies = (0..count).map(|n| body(label, n));
            if label == "buffered" {
                assert_in_order_and_complete(&found, &bodies.collect::<Vec<_>>());
                column.set(feature, &buffered_keys(&mut partitions));
                continue;
            }
            assert_eq!(found.len(), 1, "{label} is in several partitions");
            let (at, events) = found.remove(0);
            assert!(partition.is_none_or(|expected| expected == at), "{label}");
            let arrived: Vec<_> = events.iter().map(|event| event.body.clone()).collect();
            assert_eq!(arrived, bodies.collect::<Vec<_>>(), "{label}");
            assert!(
                events.iter().all(|e| e.partition_key.as_deref() == key),
                "{label}"
            );
            column.set(feature, &Cell::Works);
        }
        assert!(partitions.iter().all(Vec::is_empty), "{partitions:?}");
    }

    fn judge(&self, position: Position, received: &[Value], program: &Program) -> Cell {
        let expected = |from: usize| -> Vec<_> { self.record[from..].iter().map(shown).collect() };
        if received == expected(position.first) {
            return Cell::Works;
        }
        // What is asked for inclusively and is not.
        assert_eq!(
            received,
            expected(MIDDLE + 1),
            "{}: {program:?}",
            position.name
        );
        assert_eq!(position.first, MIDDLE, "{}", position.name);
        Cell::NotInSdk("it asks for later ones only".to_owned())
    }

    fn last_enqueued(&self, told: &Told<'_>) -> Cell {
        told.unsupported("last_enqueued").unwrap_or_else(|| {
            let last = &self.record[9];
            let expected = json!({
                "sequence_number": 9, "offset": last.offset, "time_ms": milliseconds(last),
            });
            assert_eq!(told.one("last_enqueued"), &expected);
            Cell::Works
        })
    }

    async fn latest(&self) -> Cell {
        let mut program = self.program("latest").spawn();
        let attached = async || self.levels("1").first().map(|_| ());
        assert!(poll(WAIT, attached).await.is_some(), "{program:?}");
        let event = Event::new(*b"\x00\xfflatest").with_property("n", 10_i64);
        self.emulator.send(READ, Some("1"), event).unwrap();
        program.exited(START).await;
        program.succeeded();
        let record = self.emulator.events(READ, "1").unwrap();
        let expected: Vec<_> = record[10..].iter().map(shown).collect();
        assert_eq!(Told(&program).received("latest"), expected);
        Cell::Works
    }

    /// A receiver of level 1, then one of level 2, then one of level 1 again. Each is sent an event when it is there.
    async fn owner_levels(&self, column: &mut Column) {
        let program = self.program("owner-levels").spawn();
        let level = async || self.levels("3").first().copied();
        let first = poll(WAIT, level).await;
        let first = first.unwrap_or_else(|| panic!("nobody came: {program:?}"));
        if first.is_none() {
            let reason = Cell::NotInSdk("the owner level is not sent".to_owned());
            column.set(Feature::HigherLevelTakes, &reason);
            column.set(Feature::LowerLevelRefused, &reason);
            return;
        }
        assert_eq!(first, Some(1));
        self.emulator.send(READ, Some("3"), "held by 1").unwrap();
        let taken = async || (self.levels("3") == [Some(2)]).then_some(());
        assert!(poll(WAIT, taken).await.is_some(), "{program:?}");
        self.emulator.send(READ, Some("3"), "held by 2").unwrap();
        let error = program.wait_for("taken", WAIT, |lines| {
            lines
                .iter()
                .find_map(|line| Some(line.value["taken"].as_str()?.to_owned()))
        });
        assert_names_the_loss(&error.await, &program);
        column.set(Feature::HigherLevelTakes, &Cell::Works);

        let refused = program.wait_for("refused", WAIT, |lines| {
            lines.iter().find_map(|line| {
                let error = line.value["refused"].as_str()?;
                Some((error.to_owned(), line.value["seen"].clone()))
            })
        });
        let (error, seen) = refused.await;
        assert_names_the_loss(&error, &program);
        assert_eq!(seen, json!([]), "{program:?}");
        assert_eq!(self.levels("3"), [Some(2)], "{program:?}");
        self.emulator
            .send(READ, Some("3"), "still held by 2")
            .unwrap();
        let mut program = program;
        program.exited(START).await;
        program.succeeded();
        assert_eq!(Told(&program).one("kept"), &json!([]), "{program:?}");
        column.set(Feature::LowerLevelRefused, &Cell::Works);
    }

    fn levels(&self, partition: &str) -> Vec<Option<i64>> {
        let hubs = self.emulator.status().hubs;
        let hub = hubs.into_iter().find(|hub| hub.name == READ).unwrap();
        let mut partitions = hub.partitions.into_iter();
        let found = partitions.find(|found| found.id == partition).unwrap();
        let readers = found.readers.iter();
        readers.map(|reader| reader.owner_level).collect()
    }
}

/// An SDK has a word of its own for a receiver that has to go, or cites the condition.
fn assert_names_the_loss(error: &str, program: &Program) {
    let names = [
        "ConsumerDisconnected",
        "ReceiverDisconnectedError",
        "OwnershipLost",
        "ConnectionLostError",
        "amqp:link:stolen",
    ];
    assert!(
        names.iter().any(|name| error.contains(name)),
        "{error}: {program:?}"
    );
}

/// Where a receiver starts, and with which of the ten events.
#[derive(Clone, Copy, Debug)]
struct Position {
    name: &'static str,
    first: usize,
}

const POSITIONS: [Position; 7] = [
    Position::new("earliest", 0),
    Position::new("after_offset", MIDDLE + 1),
    Position::new("at_offset", MIDDLE),
    Position::new("after_sequence_number", MIDDLE + 1),
    Position::new("at_sequence_number", MIDDLE),
    Position::new("after_time", MIDDLE + 1),
    Position::new("at_time", MIDDLE),
];

impl Position {
    const fn new(name: &'static str, first: usize) -> Self {
        Self { name, first }
    }
}

/// What a program has said.
struct Told<'a>(&'a Program);

impl Told<'_> {
    fn all(&self, key: &str) -> Vec<Value> {
        let lines = self.0.lines();
        lines
            .iter()
            .filter_map(|line| line.value.get(key).cloned())
            .collect()
    }

    fn one(&self, key: &str) -> &'static Value {
        let mut found = self.all(key);
        assert_eq!(found.len(), 1, "{key}: {:?}", self.0);
        Box::leak(Box::new(found.remove(0)))
    }

    fn received(&self, position: &str) -> Vec<Value> {
        let all = self.all("received");
        let found = all.iter().find(|line| line["position"] == position);
        let found = found.unwrap_or_else(|| panic!("{position}: {:?}", self.0));
        found["events"].as_array().unwrap().clone()
    }

    /// What it says about a feature that it does not have.
    fn unsupported(&self, feature: &str) -> Option<Cell> {
        let all = self.all("unsupported");
        let found = all.iter().find(|line| line["feature"] == feature)?;
        Some(Cell::NotInSdk(found["reason"].as_str().unwrap().to_owned()))
    }
}

/// As the programs show an event.
fn shown(event: &RecordedEvent) -> Value {
    let hex: String = event.body.iter().map(|b| format!("{b:02x}")).collect();
    json!({
        "sequence_number": event.sequence_number,
        "offset": event.offset,
        "enqueued_time_ms": milliseconds(event),
        "partition_key": event.partition_key,
        "body": hex,
        "n": event.sequence_number,
    })
}

fn milliseconds(event: &RecordedEvent) -> u64 {
    let time = event.enqueued_time.duration_since(UNIX_EPOCH).unwrap();
    time.as_millis().try_into().unwrap()
}

/// What the programs send.
fn body(label: &str, number: usize) -> Vec<u8> {
    [&[0x00, 0xff], format!("{label} {number}").as_bytes()].concat()
}

/// Takes the events of a label, which a number follows, out of a partition.
fn take(events: &mut Vec<RecordedEvent>, label: &str) -> Vec<RecordedEvent> {
    let prefix = [&[0x00, 0xff], label.as_bytes(), b" "].concat();
    let is_of = |event: &RecordedEvent| {
        let rest = event.body.strip_prefix(&*prefix);
        rest.is_some_and(|rest| rest.iter().all(u8::is_ascii_digit))
    };
    let (taken, left) = std::mem::take(events).into_iter().partition(is_of);
    *events = left;
    taken
}

/// Each once, and within a partition in the order in which they were sent.
fn assert_in_order_and_complete(found: &[(usize, Vec<RecordedEvent>)], expected: &[Vec<u8>]) {
    let mut arrived = Vec::new();
    for (partition, events) in found {
        let numbers: Vec<_> = events
            .iter()
            .map(|event| {
                expected
                    .iter()
                    .position(|body| *body == event.body)
                    .unwrap()
            })
            .collect();
        assert!(numbers.is_sorted(), "partition {partition}: {numbers:?}");
        arrived.extend(numbers);
    }
    arrived.sort_unstable();
    assert_eq!(arrived, (0..expected.len()).collect::<Vec<_>>());
}

/// Buffering clients choose the partition for a key themselves.
fn buffered_keys(partitions: &mut [Vec<RecordedEvent>]) -> Cell {
    let found: Vec<_> = partitions
        .iter_mut()
        .map(|events| take(events, "buffered key"))
        .enumerate()
        .filter(|(_, events)| !events.is_empty())
        .collect();
    let expected: Vec<_> = (0..5).map(|n| body("buffered key", n)).collect();
    assert_in_order_and_complete(&found, &expected);
    assert_eq!(found.len(), 1, "a key in several partitions");
    match found[0].0 {
        3 => Cell::Works,
        // INTEROP: Python takes the remainder of a negative hash differently.
        _ => Cell::But("puts keys into other partitions than the service does".to_owned()),
    }
}
