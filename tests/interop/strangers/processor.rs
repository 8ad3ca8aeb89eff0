//! The processor of another client with its own blob store, alone: what it reads, writes and goes on from.

use std::time::UNIX_EPOCH;

use eventhubs_emulator::Emulator;
use eventhubs_processor::CheckpointStore as _;

use super::Stranger;
use super::table::Cell;
use crate::program::Program;
use crate::setup::{Blobs, Group, PARTITIONS, START, Tools, emulator_at_5672};

const HUB: &str = "processed";
const FIRST: usize = 20;
const SECOND: usize = 5;

/// Reads everything, stops, and goes on where it was.
pub(super) async fn own_processor(tools: &Tools, stranger: Stranger, blobs: Blobs) -> Cell {
    if stranger.consumer(tools).is_none() {
        return Cell::NotInSdk("its blob store 0.9 needs version 0.15".to_owned());
    }
    let emulator = emulator_at_5672(|builder| builder.with_hub(HUB, 4)).await;
    let group = Group::of(tools, &emulator, HUB, blobs).await;
    send(&emulator, FIRST);
    let mut first = start(tools, stranger, &group).await;
    assert_read(&emulator, &first, 0..FIRST).await;
    let gives_back = stop(&mut first, stranger, &group).await;

    // What it wrote is what ours reads.
    let stored = group.store.list_checkpoints(&group.scope).await.unwrap();
    assert_eq!(stored.len(), PARTITIONS.len());
    for stored in stored {
        let checkpoint = stored.checkpoint;
        let record = emulator
            .events(HUB, checkpoint.partition_id.as_str())
            .unwrap();
        let last = &record[FIRST - 1];
        assert_eq!(checkpoint.sequence_number, Some(last.sequence_number));
        let offset = checkpoint.offset.unwrap();
        assert_eq!(offset.as_str(), last.offset);
    }

    send(&emulator, SECOND);
    let mut second = start(tools, stranger, &group).await;
    assert_read(&emulator, &second, FIRST..FIRST + SECOND).await;
    second.kill().await;
    emulator.stop().await;
    if gives_back {
        Cell::Works
    } else {
        Cell::But("keeps its partitions when it stops".to_owned())
    }
}

async fn start(tools: &Tools, stranger: Stranger, group: &Group) -> Program {
    let command = stranger.consumer(tools).unwrap();
    group
        .with_environment(command)
        .env("CONTAINER_URL", group.container_url().await)
        .env("LOAD_BALANCING_INTERVAL_MS", "500")
        .env("OWNERSHIP_EXPIRATION_MS", "4000")
        .spawn()
}

fn send(emulator: &Emulator, count: usize) {
    for partition in PARTITIONS {
        for number in 0..count {
            let body = format!("{partition}/{number}");
            emulator.send(HUB, Some(partition), &*body).unwrap();
        }
    }
}

/// Waits for these events of every partition and their last checkpoint: they, and no others, as the emulator has them.
async fn assert_read(emulator: &Emulator, program: &Program, range: std::ops::Range<usize>) {
    for partition in PARTITIONS {
        let last = range.end - 1;
        program
            .wait_for("the checkpoint of the last event", START, |lines| {
                let is_last = |line: &crate::program::Line| {
                    let told = &line.value["checkpoint"];
                    told["partition"] == partition && told["sequence_number"] == last
                };
                lines.iter().any(is_last).then_some(())
            })
            .await;
        let lines = program.lines();
        let events = lines.iter().filter_map(|line| line.value.get("event"));
        let events: Vec<_> = events
            .filter(|event| event["partition"] == partition)
            .collect();
        let record = emulator.events(HUB, partition).unwrap();
        assert_eq!(events.len(), range.len(), "{program:?}");
        for (event, record) in events.iter().zip(&record[range.clone()]) {
            let time = record.enqueued_time.duration_since(UNIX_EPOCH).unwrap();
            let time = u64::try_from(time.as_millis()).unwrap();
            assert_eq!(event["sequence_number"], record.sequence_number);
            assert_eq!(event["offset"], *record.offset);
            assert_eq!(event["enqueued_time_ms"], time);
            assert_eq!(event["body"].as_str().unwrap().as_bytes(), record.body);
        }
    }
}

/// Ends it politely. Returns whether it gives its partitions back.
async fn stop(program: &mut Program, stranger: Stranger, group: &Group) -> bool {
    program.terminate(START).await;
    let mut owners = group.owners().await;
    let free = owners.remove("").unwrap_or_default();
    let kept: usize = owners.values().sum();
    assert_eq!(free + kept, PARTITIONS.len(), "{program:?}");
    match stranger {
        Stranger::Js => assert_eq!(kept, 0, "{program:?}"),
        // INTEROP: a stop does not wait for the load balancing that is under way, which may renew what is given back.
        Stranger::Python | Stranger::PythonAio => {}
        // INTEROP: azure-sdk-for-rust#5096.
        Stranger::Rust015 | Stranger::Rust016 => assert_eq!(free, 0, "{program:?}"),
    }
    !matches!(stranger, Stranger::Rust015)
}
