//! A consumer group that the Python SDK and this crate share, through joins, polite stops and a crash, while events
//! keep coming.

use std::time::{Duration, Instant};

use crate::program::{Command, Program};
use crate::setup::{Group, PARTITIONS, START, Tools, emulator, report, within};
use crate::timeline::{Term, Union, acknowledged, errors, event, first_event_after, terms};

const INTERVAL: Duration = Duration::from_secs(1);
/// Far above the time to take what was given back.
const EXPIRATION: Duration = Duration::from_secs(15);
/// No multiple of the size of batches, so that a polite stop has something left to checkpoint.
const CHECKPOINT_EVERY: i64 = 7;
/// To take what was given back: one interval with its jitter, one claim, one attach, on a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(8);

fn settings(command: Command) -> Command {
    command
        .env(
            "LOAD_BALANCING_INTERVAL_MS",
            INTERVAL.as_millis().to_string(),
        )
        .env(
            "OWNERSHIP_EXPIRATION_MS",
            EXPIRATION.as_millis().to_string(),
        )
        .env("CHECKPOINT_EVERY", CHECKPOINT_EVERY.to_string())
}

fn ours(group: &Group, owner: &str) -> Program {
    settings(group.consumer())
        .named(owner)
        .env("OWNER_ID", owner)
        .spawn()
}

fn python(group: &Group, name: &str) -> Program {
    settings(group.python_consumer()).named(name).spawn()
}

fn last_term(program: &Program, partition: &str) -> Option<Term> {
    terms(&program.lines(), partition).pop()
}

/// Waits until a program has processed events of every partition after an instant. Returns how long the slowest
/// took from then.
async fn reads_all_since(program: &Program, instant: Instant, limit: Duration) -> Duration {
    let all = program.wait_for("events of all partitions", limit, |lines| {
        let first = |partition| first_event_after(lines, partition, instant);
        PARTITIONS
            .into_iter()
            .map(first)
            .collect::<Option<Vec<_>>>()
    });
    *all.await.iter().max().unwrap() - instant
}

/// Waits until a program has noticed that so many of its partitions were taken.
async fn has_lost(program: &Program, count: usize) {
    program
        .wait_for("the loss of partitions", TAKE_OVER, |lines| {
            let is_lost = |partition: &&str| {
                let last = terms(lines, partition).pop();
                let closed = last.and_then(|term| term.closed);
                closed.is_some_and(|reason| matches!(&*reason, "OWNERSHIP_LOST" | "OwnershipLost"))
            };
            let lost = PARTITIONS.iter().filter(|partition| is_lost(partition));
            (lost.count() == count).then_some(())
        })
        .await;
}

/// After a polite stop every partition goes on right after what was processed: nothing is read again that a
/// checkpoint covers, and nothing is left out. Looks at the partitions that `before` closed as it stopped.
fn assert_clean_handover(before: &Program, after: &Program) {
    let mut handed_over = 0;
    for partition in PARTITIONS {
        let Some(gave) = last_term(before, partition) else {
            continue;
        };
        let closed = gave.closed.as_deref().map(str::to_ascii_uppercase);
        if closed.as_deref() != Some("SHUTDOWN") {
            continue;
        }
        let Some((_, last)) = gave.events else {
            continue;
        };
        let (first, _) = last_term(after, partition)
            .and_then(|term| term.events)
            .unwrap();
        // Ours checkpoints the last event before it says `close`. Python says what it has checkpointed, but may be
        // cut between the store's answer and saying so.
        let checkpoint = gave.checkpoint.unwrap_or(last);
        assert!(
            checkpoint < first && first <= last + 1,
            "partition {partition}: the checkpoint is {checkpoint}, the last event was {last}, \
             and the next consumer began with {first}\n{before:?}\n{after:?}"
        );
        handed_over += 1;
    }
    assert!(handed_over > 0, "nothing was handed over: {before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_ours_share_a_group_through_joins_stops_and_a_crash() {
    let test = "python_and_ours_share_a_group_through_joins_stops_and_a_crash";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(600), share_a_group(tools)).await;
}

async fn share_a_group(tools: Tools) {
    let emulator = emulator(|builder| builder).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    let mut producer = group
        .producer(&["steady", "--rate", "100", "--batch", "5"])
        .spawn();

    // Python alone.
    let mut python_1 = python(&group, "python-1");
    let checkpoints = python_1.wait_for("checkpoints of all partitions", START, |lines| {
        PARTITIONS
            .into_iter()
            .map(|partition| terms(lines, partition).pop()?.checkpoint)
            .collect::<Option<Vec<_>>>()
    });
    let checkpoints = checkpoints.await;
    group.shared(START, "", 0, 4).await;

    // Ours joins, and goes on from Python's checkpoints.
    let joined = Instant::now();
    let mut ours_1 = ours(&group, "ours-1");
    group.shared(START, "ours-1", 2, 2).await;
    let taken = ours_1.wait_for("events of two partitions", START, |lines| {
        let is_read = |partition: &&str| lines.iter().any(|line| event(line, partition).is_some());
        let taken: Vec<_> = PARTITIONS.into_iter().filter(is_read).collect();
        (taken.len() == 2).then_some(taken)
    });
    let taken = taken.await;
    report(&format!("2/2 after {:?}", joined.elapsed()));
    for (partition, checkpoint) in PARTITIONS.into_iter().zip(checkpoints) {
        if !taken.contains(&partition) {
            continue;
        }
        let (first, _) = terms(&ours_1.lines(), partition)[0].events.unwrap();
        let (_, last) = last_term(&python_1, partition).unwrap().events.unwrap();
        assert!(
            checkpoint < first && first <= last + 1,
            "partition {partition}: Python's checkpoint was {checkpoint} or later, its last event {last}; \
             ours began with {first}"
        );
    }

    // Python stops politely.
    has_lost(&python_1, 2).await;
    let stopping = Instant::now();
    let took = python_1.terminate(START).await;
    group.shared(TAKE_OVER, "ours-1", 4, 0).await;
    let gap = reads_all_since(&ours_1, stopping, TAKE_OVER + took).await;
    report(&format!(
        "Python stopped in {took:?}, ours reads all {gap:?} after the signal"
    ));
    assert_clean_handover(&python_1, &ours_1);

    // Python comes back.
    let joined = Instant::now();
    let mut python_2 = python(&group, "python-2");
    group.shared(START, "ours-1", 2, 2).await;
    report(&format!("2/2 after {:?}", joined.elapsed()));

    // Ours stops politely.
    has_lost(&ours_1, 2).await;
    let stopping = Instant::now();
    let took = ours_1.terminate(START).await;
    group.shared(TAKE_OVER, "", 0, 4).await;
    let gap = reads_all_since(&python_2, stopping, TAKE_OVER + took).await;
    report(&format!(
        "ours stopped in {took:?}, Python reads all {gap:?} after the signal"
    ));
    assert_clean_handover(&ours_1, &python_2);

    // Ours comes back, and Python crashes.
    let mut ours_2 = ours(&group, "ours-2");
    group.shared(START, "ours-2", 2, 2).await;
    let killed = Instant::now();
    python_2.kill().await;
    group.shared(EXPIRATION + TAKE_OVER, "ours-2", 4, 0).await;
    let gap = reads_all_since(&ours_2, killed, EXPIRATION + TAKE_OVER).await;
    report(&format!("Python killed, ours reads all after {gap:?}"));

    // The books.
    producer.terminate(START).await;
    for partition in PARTITIONS {
        let last = last_of(&emulator, partition);
        ours_2
            .wait_for("the last event", START, |lines| {
                let is_last =
                    |line| event(line, partition).is_some_and(|(number, _)| number == last);
                lines.iter().any(is_last).then_some(())
            })
            .await;
    }
    ours_2.terminate(START).await;
    let union = Union::of(&[&python_1, &python_2, &ours_1, &ours_2]);
    for partition in PARTITIONS {
        union.assert_complete(partition, last_of(&emulator, partition));
    }
    union.assert_has(&acknowledged(&producer.lines()));
    report(&format!(
        "{} events, {} of them twice",
        union.events(),
        union.duplicates()
    ));
    for python in [&python_1, &python_2] {
        let errors = errors(&python.lines());
        let others = errors.iter().filter(|error| !is_ownership_lost(error));
        assert_eq!(others.count(), 0, "Python was told of {errors:?}");
    }
    for ours in [&ours_1, &ours_2] {
        let errors = errors(&ours.lines());
        assert!(errors.is_empty(), "ours was told of {errors:?}");
    }
    emulator.stop().await;
}

/// What the SDK says when another consumer has taken its partition.
fn is_ownership_lost(error: &str) -> bool {
    error.contains("OwnershipLost") || error.contains("amqp:link:stolen")
}

fn last_of(emulator: &eventhubs_emulator::Emulator, partition: &str) -> i64 {
    let properties = emulator
        .partition_properties(crate::setup::HUB, partition)
        .unwrap();
    properties.last_enqueued_sequence_number
}
