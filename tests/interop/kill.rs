//! The scripted consumer, killed again and again while events come.

use std::time::{Duration, Instant};

use crate::program::{Command, Program};
use crate::setup::{Group, PARTITIONS, START, Tools, emulator_program, report, within};
use crate::timeline::{Union, acknowledged, event};

const EVENTS: usize = 20_000;
const KILLS: usize = 10;
/// Events that a life has to process before it is ended, some of every partition: it has caught up then.
const CAUGHT_UP: usize = 2500;
/// Events after which every other life is ended, in the middle of what the one before has left.
const CATCHING_UP: usize = 40;

fn settings(command: Command) -> Command {
    command
        .env("LOAD_BALANCING_INTERVAL_MS", "1000")
        .env("OWNERSHIP_EXPIRATION_MS", "3000")
        .env("CHECKPOINT_EVERY", "11")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_killed_ten_times_processes_every_event() {
    let test = "a_consumer_killed_ten_times_processes_every_event";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(600), kill_again_and_again(tools)).await;
}

async fn kill_again_and_again(tools: Tools) {
    let (mut emulator, addresses) = emulator_program().await;
    let group = Group::new(tools, &addresses.event_hubs).await;
    let count = EVENTS.to_string();
    let steady = [
        "steady", "--rate", "330", "--batch", "20", "--count", &count,
    ];
    let mut producer = group.producer(&steady).spawn();

    let mut union = Union::default();
    for life in 1..=KILLS {
        let mut consumer = settings(group.consumer())
            .named(&format!("life {life}"))
            .spawn();
        let born = Instant::now();
        if life % 2 == 0 {
            wait_for_events(&consumer, CATCHING_UP, &[]).await;
        } else {
            wait_for_events(&consumer, CAUGHT_UP, &PARTITIONS).await;
        }
        consumer.kill().await;
        union.add(&consumer.lines());
        report(&format!(
            "life {life}: {:?}, {} events so far",
            born.elapsed(),
            union.events()
        ));
    }

    // The last life is allowed to finish.
    let mut consumer = settings(group.consumer()).named("last life").spawn();
    producer.exited(Duration::from_secs(300)).await;
    producer.succeeded();
    let acknowledged = acknowledged(&producer.lines());
    assert_eq!(acknowledged.len(), EVENTS);
    consumer
        .wait_for("the end of all partitions", START, |lines| {
            let ends = PARTITIONS.into_iter().map(|partition| {
                let newest = lines.iter().rev().find_map(|line| event(line, partition));
                newest.map(|(number, _)| number + 1)
            });
            let total: i64 = ends.collect::<Option<Vec<_>>>()?.iter().sum();
            (usize::try_from(total).unwrap() >= EVENTS).then_some(())
        })
        .await;
    consumer.terminate(START).await;
    union.add(&consumer.lines());
    union.assert_has(&acknowledged);
    report(&format!(
        "{} events, {} more by repetition, in {KILLS} kills",
        union.events(),
        union.duplicates()
    ));

    // What a polite stop has checkpointed does not come back.
    let checkpoints = group.checkpoints().await;
    for partition in PARTITIONS {
        let last = consumer
            .lines()
            .iter()
            .rev()
            .find_map(|line| event(line, partition).map(|(number, _)| number));
        assert_eq!(
            checkpoints.get(partition).copied(),
            last,
            "partition {partition}: {consumer:?}"
        );
    }
    for partition in PARTITIONS {
        let mut one = group
            .producer(&["one", "--partition", partition, "--body", "after the stop"])
            .spawn();
        one.exited(START).await;
        one.succeeded();
    }
    let mut restarted = settings(group.consumer()).named("restarted").spawn();
    wait_for_events(&restarted, PARTITIONS.len(), &PARTITIONS).await;
    restarted.terminate(START).await;
    for line in restarted.lines() {
        for partition in PARTITIONS {
            if let Some((number, _)) = event(&line, partition) {
                assert!(
                    number > checkpoints[partition],
                    "{number} of partition {partition} came back"
                );
            }
        }
    }
    emulator.terminate(START).await;
}

async fn wait_for_events(consumer: &Program, count: usize, partitions: &[&str]) {
    let what = format!("{count} events, some of each of {partitions:?}");
    consumer
        .wait_for(&what, START, |lines| {
            let is_read =
                |partition: &&str| lines.iter().any(|line| event(line, partition).is_some());
            if !partitions.iter().all(is_read) {
                return None;
            }
            let seen = lines
                .iter()
                .filter(|line| line.value.get("event").is_some())
                .count();
            (seen >= count).then_some(())
        })
        .await;
}
