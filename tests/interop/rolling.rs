//! Three scripted consumers, ended and replaced one after the other under load.
//!
//! 2,000 events a second over four partitions, each event checkpointed as soon as it is done. Azurite writes about a
//! thousand blobs a second at best, so the checkpoints are written by the policy "every event": what is done during a
//! write goes into the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::program::{Command, Program};
use crate::setup::{Group, PARTITIONS, START, Tools, emulator_program, report, within};
use crate::timeline::{Union, acknowledged, event, terms};

const FLEET: usize = 3;
const RATE: usize = 2000;
const LIMIT: Duration = Duration::from_secs(300);

fn settings(command: Command) -> Command {
    command
        .env("CHECKPOINT_POLICY", "1")
        .env("LOAD_BALANCING_INTERVAL_MS", "3000")
        .env("OWNERSHIP_EXPIRATION_MS", "20000")
}

async fn start(group: &Group, name: &str) -> Program {
    let consumer = settings(group.consumer()).named(name).spawn();
    consumer
        .wait_for("an event", Duration::from_secs(60), |lines| {
            lines
                .iter()
                .any(|line| line.value.get("event").is_some())
                .then_some(())
        })
        .await;
    consumer
}

/// The newest sequence number of each partition in what is printed.
fn newest<'a>(consumers: impl Iterator<Item = &'a Program>) -> BTreeMap<&'static str, i64> {
    let mut newest = BTreeMap::new();
    for consumer in consumers {
        let lines = consumer.lines();
        for partition in PARTITIONS {
            let last = lines.iter().rev().find_map(|line| event(line, partition));
            if let Some((number, _)) = last {
                let entry = newest.entry(partition).or_insert(number);
                *entry = number.max(*entry);
            }
        }
    }
    newest
}

/// Ends and replaces every consumer with `end`, which returns how many repetitions it excuses.
async fn roll(tools: Tools, how: &str, end: impl AsyncFn(&Group, &mut Program) -> usize) {
    let (mut emulator, connection_string) = emulator_program().await;
    let group = Group::new(tools, &connection_string).await;
    let rate = RATE.to_string();
    let producer = group.producer(&["steady", "--rate", &rate, "--batch", "50", "--count", "0"]);
    let mut producer = producer.spawn();
    let begun = Instant::now();

    let (mut fleet, mut gone) = (Vec::new(), Vec::new());
    for number in 1..=FLEET {
        fleet.push(start(&group, &format!("consumer {number}")).await);
    }
    let mut excused = 0;
    for number in 1..=FLEET {
        let mut old = fleet.remove(0);
        let ending = Instant::now();
        excused += end(&group, &mut old).await;
        report(&format!(
            "{how} {number}: ended within {:?}",
            ending.elapsed()
        ));
        gone.push(old);
        fleet.push(start(&group, &format!("replacement {number}")).await);
    }
    let sending = begun.elapsed();
    producer.terminate(START).await;
    let acknowledged = acknowledged(&producer.lines());

    let deadline = Instant::now() + Duration::from_secs(180);
    let before = newest(gone.iter());
    loop {
        let mut ends = newest(fleet.iter());
        for (partition, number) in &before {
            let entry = ends.entry(partition).or_insert(*number);
            *entry = (*entry).max(*number);
        }
        let total: i64 = ends.values().map(|number| number + 1).sum();
        if usize::try_from(total).unwrap() >= acknowledged.len() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{total} of {}: {fleet:?}",
            acknowledged.len()
        );
        // Each look copies all that was printed.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    for consumer in &mut fleet {
        consumer.terminate(Duration::from_secs(60)).await;
    }
    let union = Union::of(&fleet.iter().chain(&gone).collect::<Vec<_>>());
    union.assert_has(&acknowledged);
    report(&format!(
        "{how}: {} events in {sending:?}, {} by repetition, {excused} excused",
        union.events(),
        union.duplicates()
    ));
    assert!(
        union.duplicates() <= excused,
        "{} repetitions, {excused} excused: {gone:?} {fleet:?}",
        union.duplicates()
    );
    emulator.terminate(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_by_sigterm_loses_nothing_and_repeats_nothing() {
    let test = "a_rolling_restart_by_sigterm_loses_nothing_and_repeats_nothing";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    let stop = async |_: &Group, consumer: &mut Program| {
        consumer.terminate(Duration::from_secs(60)).await;
        0
    };
    within(LIMIT, roll(tools, "SIGTERM", stop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_by_sigkill_loses_nothing_and_repeats_what_was_not_checkpointed() {
    let test = "a_rolling_restart_by_sigkill_loses_nothing_and_repeats_what_was_not_checkpointed";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    let kill = async |group: &Group, consumer: &mut Program| {
        consumer.kill().await;
        // Nobody else begins before the suspect time is over.
        let checkpoints = group.checkpoints().await;
        let lines = consumer.lines();
        let in_flight = PARTITIONS.into_iter().map(|partition| {
            let terms = terms(&lines, partition);
            let open = terms.last().filter(|term| term.closed.is_none());
            let last = open
                .and_then(|term| term.events)
                .map_or(-1, |(_, last)| last);
            let stored = checkpoints.get(partition).copied().unwrap_or(-1);
            usize::try_from(last - stored).unwrap_or(0)
        });
        in_flight.sum()
    };
    within(LIMIT, roll(tools, "SIGKILL", kill)).await;
}
