//! `docs/interop.md`: which client can do what. The tests fail if it is not true; with `EHP_INTEROP_WRITE=1` they write it.

use std::collections::BTreeMap;
use std::env;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Stranger;
use crate::setup::Blobs;

const HEAD: &str = "\
<!-- Written by `EHP_INTEROP_WRITE=1 scripts/check.sh`; every run of the interop tests fails if it is not true. -->

# Unmodified clients on the emulator

Each cell was run: the client is the released package, pinned in `tests/interop`, and what it sent or received was
compared with what the emulator holds. \"Not in this SDK\" says what the client cannot do, on any service.

The clients: Python `azure-eventhub` with `azure-eventhub-checkpointstoreblob` and `-aio` 1.2.0; JavaScript
`@azure/event-hubs` with `@azure/eventhubs-checkpointstore-blob` 2.0.0; Rust `azure_messaging_eventhubs`, 0.15.0 with
`azure_messaging_eventhubs_checkpointstore_blob` 0.9.0. Azurite is 3.35.0.

";

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    HubProperties,
    PartitionProperties,
    SendSingle,
    SendBatch,
    SendKey,
    SendPartition,
    SendBuffered,
    Latest,
    Position(&'static str),
    LastEnqueued,
    HigherLevelTakes,
    LowerLevelRefused,
    Processor(Blobs),
}

impl Feature {
    const ALL: [Self; 20] = [
        Self::HubProperties,
        Self::PartitionProperties,
        Self::SendSingle,
        Self::SendBatch,
        Self::SendKey,
        Self::SendPartition,
        Self::SendBuffered,
        Self::Position("earliest"),
        Self::Latest,
        Self::Position("after_offset"),
        Self::Position("at_offset"),
        Self::Position("after_sequence_number"),
        Self::Position("at_sequence_number"),
        Self::Position("after_time"),
        Self::Position("at_time"),
        Self::LastEnqueued,
        Self::HigherLevelTakes,
        Self::LowerLevelRefused,
        Self::Processor(Blobs::Emulator),
        Self::Processor(Blobs::Azurite),
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HubProperties => "properties of the event hub",
            Self::PartitionProperties => "properties of a partition",
            Self::SendSingle => "send a single event",
            Self::SendBatch => "send a batch",
            Self::SendKey => "send with a partition key",
            Self::SendPartition => "send to a partition",
            Self::SendBuffered => "send through a buffered producer, with and without a key",
            Self::Latest => "receive from the end",
            Self::Position(name) => match *name {
                "earliest" => "receive from the beginning",
                "after_offset" => "receive after an offset",
                "at_offset" => "receive from an offset on, inclusive",
                "after_sequence_number" => "receive after a sequence number",
                "at_sequence_number" => "receive from a sequence number on, inclusive",
                "after_time" => "receive after an enqueued time",
                "at_time" => "receive from an enqueued time on, inclusive",
                other => other,
            },
            Self::LastEnqueued => "last enqueued event, told with the events",
            Self::HigherLevelTakes => "a higher owner level takes the partition",
            Self::LowerLevelRefused => "a lower owner level is refused",
            Self::Processor(Blobs::Emulator) => {
                "its processor with its blob store on the emulator: reads, checkpoints, resumes"
            }
            Self::Processor(Blobs::Azurite) => "the same with the blobs on Azurite",
        })
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Works,
    /// It works, and something is to be known about it.
    But(String),
    NotInSdk(String),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("yes"),
            Self::But(what) => write!(f, "yes; {what}"),
            Self::NotInSdk(reason) => write!(f, "not in this SDK: {reason}"),
        }
    }
}

/// What a client can do.
#[derive(Debug)]
pub(super) struct Column {
    stranger: Stranger,
    cells: BTreeMap<String, String>,
}

impl Column {
    pub(super) fn of(stranger: Stranger) -> Self {
        Self {
            stranger,
            cells: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, feature: Feature, cell: &Cell) {
        let before = self.cells.insert(feature.to_string(), cell.to_string());
        assert_eq!(before, None, "{feature} twice");
    }

    /// Compares it with the table, or puts it there.
    pub(super) fn settle(&self) {
        static WRITING: Mutex<()> = Mutex::new(());
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/interop.md");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let new = self.put_into(&text);
        if env::var_os("EHP_INTEROP_WRITE").is_some_and(|value| value == "1") {
            fs::write(&path, new).unwrap();
        } else {
            assert!(
                text == new,
                "docs/interop.md is not true for {}; it is now:\n{new}",
                self.stranger
            );
        }
    }

    /// The table with this column; the others are as they were.
    fn put_into(&self, text: &str) -> String {
        let mut columns = parse(text);
        columns.insert(self.stranger.to_string(), self.cells.clone());
        let mut new = HEAD.to_owned();
        let heads = Stranger::ALL.map(|stranger| stranger.to_string());
        writeln!(new, "| feature | {} |", heads.join(" | ")).unwrap();
        writeln!(new, "|---|{}", "---|".repeat(heads.len())).unwrap();
        for feature in Feature::ALL.map(|feature| feature.to_string()) {
            let cells = heads.each_ref().map(|head| {
                let cell = columns.get(head).and_then(|column| column.get(&feature));
                cell.map_or("not run", String::as_str)
            });
            writeln!(new, "| {feature} | {} |", cells.join(" | ")).unwrap();
        }
        new
    }
}

/// The cells of the table in a text, by column and row.
fn parse(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut rows = text.lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(cells.split(" | ").map(str::to_owned).collect::<Vec<_>>())
    });
    let mut columns = BTreeMap::<_, BTreeMap<_, _>>::new();
    let heads = rows.next().unwrap_or_default();
    for row in rows {
        for (head, cell) in heads.iter().zip(&row).skip(1) {
            let column = columns.entry(head.clone()).or_default();
            column.insert(row[0].clone(), cell.clone());
        }
    }
    columns
}
