//! Three scripted consumers, ended and replaced one after the other under load.
//!
//! First at once, while partitions still move, then each time after all three have their share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::program::{Command, Line, Program};
use crate::setup::{Group, PARTITIONS, START, Tools, emulator_program, poll, report, within};
use crate::timeline::{Union, acknowledged, longest_pause, terms};

const FLEET: usize = 3;
const INTERVAL: Duration = Duration::from_secs(3);
/// How long a consumer may be silent before others of its kind take it for dead: two and a half intervals.
const PROMISE: Duration = Duration::from_millis(7500);
/// Far above the promise, to tell which of them an heir has waited for.
const EXPIRATION: Duration = Duration::from_secs(60);
/// What a busy machine adds, and the resolution of ages.
const BUSY: Duration = Duration::from_secs(3);
/// For this long nothing moves before a consumer that has its share is ended.
const CALM: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(90);
/// Until what was sent is done, if each event waits for its blob on a busy machine.
const CATCH_UP: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(900);

/// Who writes checkpoints, and how many events come a second.
#[derive(Clone, Copy, Debug)]
struct Load {
    rate: usize,
    batch: usize,
    /// `CHECKPOINT_POLICY`
    policy: &'static str,
    /// Of the emulator; otherwise of Azurite.
    emulated_blobs: bool,
}

/// Azurite writes fewer blobs than events come, so what is done during a write goes into the next.
const BY_POLICY: Load = Load {
    rate: 2000,
    batch: 20,
    policy: "1",
    emulated_blobs: false,
};

/// How a consumer is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Term,
    Kill,
}

impl End {
    /// The longest that a partition may be unread. An heir is told to begin, and does so at once. If it is ended in that
    /// moment, it gives the partition back, and somebody takes it in the next cycle. After a kill the promise of the
    /// owner is over first, and whoever then takes over, or waited for that, may have been killed meanwhile.
    fn longest_pause(self) -> Duration {
        let design = match self {
            Self::Term => INTERVAL.mul_f64(1.1),
            Self::Kill => PROMISE * 2,
        };
        design + BUSY
    }
}

/// The consumers of a group, those that run and those that are gone.
struct Fleet {
    group: Group,
    policy: &'static str,
    running: Vec<Program>,
    gone: Vec<Program>,
    /// The most repetitions of each partition that the ends so far explain.
    excused: BTreeMap<&'static str, usize>,
}

impl Fleet {
    async fn start(&mut self, name: &str) {
        let millis = |time: Duration| time.as_millis().to_string();
        let command: Command = self
            .group
            .consumer()
            .named(name)
            .env("CHECKPOINT_POLICY", self.policy)
            .env("LOAD_BALANCING_INTERVAL_MS", millis(INTERVAL))
            .env("OWNERSHIP_EXPIRATION_MS", millis(EXPIRATION));
        let consumer = command.spawn();
        consumer
            .wait_for("an event", SETTLE, |lines| {
                let is_event = |line: &Line| line.value.get("event").is_some();
                lines.iter().any(is_event).then_some(())
            })
            .await;
        self.running.push(consumer);
    }

    /// Waits until each partition is read by one consumer, and each consumer reads one.
    async fn settle(&self) {
        let is_settled = async || {
            let shares = self.running.iter().map(read_by);
            let shares: Vec<_> = shares.map(|read| read.len()).collect();
            let is_shared = shares.iter().sum::<usize>() == PARTITIONS.len();
            (is_shared && !shares.contains(&0)).then_some(())
        };
        if poll(SETTLE, is_settled).await.is_none() {
            panic!("not shared within {SETTLE:?}: {:?}", self.running);
        }
    }

    /// Ends the oldest consumer and starts another.
    async fn replace(&mut self, how: End, name: &str) {
        let mut old = self.running.remove(0);
        let read = read_by(&old);
        let began = Instant::now();
        match how {
            End::Term => {
                old.terminate(START).await;
            }
            End::Kill => {
                old.kill().await;
                // Nobody else begins before the promise is over.
                for (partition, in_flight) in in_flight(&self.group, &old).await {
                    *self.excused.entry(partition).or_default() += in_flight;
                }
            }
        }
        let took = began.elapsed();
        report(&format!(
            "{how:?}, {name}: {read:?} were read, over in {took:?}; excused so far: {:?}",
            self.excused
        ));
        self.gone.push(old);
        self.start(name).await;
    }

    fn all(&self) -> Vec<&Program> {
        self.gone.iter().chain(&self.running).collect()
    }
}

/// The partitions that a consumer is reading, by what it says.
fn read_by(consumer: &Program) -> Vec<&'static str> {
    let lines = consumer.lines();
    let is_read = |partition: &&str| {
        let last = terms(&lines, partition).pop();
        last.is_some_and(|term| term.closed.is_none() && term.events.is_some())
    };
    PARTITIONS.into_iter().filter(is_read).collect()
}

/// How many events a consumer that was killed has processed beyond the checkpoint that it leaves, by partition.
async fn in_flight(group: &Group, killed: &Program) -> BTreeMap<&'static str, usize> {
    let checkpoints = group.checkpoints().await;
    let lines = killed.lines();
    let in_flight = PARTITIONS.into_iter().filter_map(|partition| {
        let open = terms(&lines, partition).pop()?;
        let (_, last) = open.events.filter(|_| open.closed.is_none())?;
        let stored = checkpoints.get(partition).copied().unwrap_or(-1);
        Some((partition, usize::try_from(last - stored).unwrap_or(0)))
    });
    in_flight.collect()
}

/// Ends and replaces every consumer twice.
async fn roll(tools: Tools, how: End, load: Load) {
    let (mut emulator, addresses) = emulator_program().await;
    let tools = if load.emulated_blobs {
        tools.with_storage(addresses.storage)
    } else {
        tools
    };
    let group = Group::new(tools, &addresses.event_hubs).await;
    let (rate, batch) = (load.rate.to_string(), load.batch.to_string());
    let mut producer = group
        .producer(&["steady", "--rate", &rate, "--batch", &batch, "--count", "0"])
        .spawn();
    let mut fleet = Fleet {
        group,
        policy: load.policy,
        running: Vec::new(),
        gone: Vec::new(),
        excused: BTreeMap::new(),
    };

    for number in 1..=FLEET {
        fleet.start(&format!("consumer {number}")).await;
    }
    let began = Instant::now();
    for number in 1..=FLEET {
        fleet.replace(how, &format!("replacement {number}")).await;
    }
    for number in 1..=FLEET {
        fleet.settle().await;
        tokio::time::sleep(CALM).await;
        fleet
            .replace(how, &format!("second replacement {number}"))
            .await;
    }
    fleet.settle().await;
    let ended = Instant::now();
    producer.terminate(START).await;
    let acknowledged = acknowledged(&producer.lines());

    let is_done = async || {
        let union = Union::of(&fleet.all());
        // Each look goes through all that was printed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        union.lacks(&acknowledged).is_empty().then_some(())
    };
    if poll(CATCH_UP, is_done).await.is_none() {
        let lacking = Union::of(&fleet.all()).lacks(&acknowledged).len();
        panic!(
            "{lacking} of {} lost: {:?}",
            acknowledged.len(),
            fleet.all()
        );
    }
    let caught_up = ended.elapsed();
    for partition in PARTITIONS {
        let pause = longest_pause(&fleet.all(), partition, began, ended);
        report(&format!("partition {partition}: unread for {pause:?}"));
        assert!(
            pause < how.longest_pause(),
            "partition {partition}: unread for {pause:?}"
        );
    }
    for consumer in &mut fleet.running {
        consumer.terminate(START).await;
    }
    // A policy, or a handler that waits for its checkpoints, leaves nothing behind.
    let checkpoints = fleet.group.checkpoints().await;
    let union = Union::of(&fleet.all());
    for partition in PARTITIONS {
        union.assert_complete(partition, checkpoints[partition]);
        assert!(!union.has(partition, checkpoints[partition] + 1));
    }
    let repeated = union.duplicates_of_each();
    report(&format!(
        "{how:?}, {load:?}: {} events in {:?}, the last {caught_up:?} later; repeated {repeated:?}, excused {:?}",
        union.events(),
        ended - began,
        fleet.excused
    ));
    for (partition, repeated) in repeated {
        let excused = fleet.excused.get(&*partition).copied().unwrap_or_default();
        assert!(
            repeated <= excused,
            "partition {partition}: {repeated} repetitions, {excused} excused: {:?}",
            fleet.all()
        );
    }
    emulator.terminate(START).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_by_sigterm_loses_nothing_and_repeats_nothing() {
    let test = "a_rolling_restart_by_sigterm_loses_nothing_and_repeats_nothing";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(LIMIT, roll(tools, End::Term, BY_POLICY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_by_sigkill_loses_nothing_and_repeats_what_was_not_checkpointed() {
    let test = "a_rolling_restart_by_sigkill_loses_nothing_and_repeats_what_was_not_checkpointed";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(LIMIT, roll(tools, End::Kill, BY_POLICY)).await;
}

/// The handler waits for each of its checkpoints: a blob written for every event, about as many as Azurite can.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_a_blob_written_for_each_event_repeats_nothing() {
    let test = "a_rolling_restart_with_a_blob_written_for_each_event_repeats_nothing";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    let by_handler = Load {
        rate: 300,
        batch: 5,
        policy: "manual",
        emulated_blobs: false,
    };
    within(LIMIT, roll(tools, End::Term, by_handler)).await;
}

/// More events than blobs can be written: whoever is ended has a full link, and leaves a backlog.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_a_blob_of_the_emulator_for_each_event_repeats_nothing() {
    let test = "a_rolling_restart_with_a_blob_of_the_emulator_for_each_event_repeats_nothing";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    let by_handler = Load {
        rate: 2000,
        batch: 20,
        policy: "manual",
        emulated_blobs: true,
    };
    within(LIMIT, roll(tools, End::Term, by_handler)).await;
}
