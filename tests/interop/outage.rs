//! The storage account away for a minute, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventhubs_emulator::Emulator;
use tokio::task::JoinHandle;

use crate::program::{Command, Line, Program};
use crate::setup::{Group, HUB, PARTITIONS, START, Tools, emulator, poll, report, within};
use crate::storage::{Azurite, OUTAGE, Proxy};
use crate::timeline::{Union, errors, event, longest_pause, terms};

const INTERVAL: Duration = Duration::from_secs(2);
/// Much shorter than the outage: afterwards every record looks expired.
const EXPIRATION: Duration = Duration::from_secs(20);
/// Between two events of a partition, on a machine that does other things as well; twenty come a second. A consumer that
/// stopped reading until storage is back would pause for more than half of the outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_storage_stops_nothing_moves_nothing_and_ends_with_one_write_a_partition()
{
    let test =
        "a_minute_without_storage_stops_nothing_moves_nothing_and_ends_with_one_write_a_partition";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(600), outage(tools)).await;
}

fn connection_string(addr: SocketAddr) -> String {
    // The well-known account of every Azurite, from its documentation.
    format!(
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;\
         AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;\
         BlobEndpoint=http://{addr}/devstoreaccount1;"
    )
}

fn consumer(group: &Group, owner: &str, storage: &str) -> Program {
    let millis = |time: Duration| time.as_millis().to_string();
    let command: Command = group
        .consumer()
        .named(owner)
        .env("OWNER_ID", owner)
        .env("CHECKPOINT_POLICY", "1")
        .env("LOAD_BALANCING_INTERVAL_MS", millis(INTERVAL))
        .env("OWNERSHIP_EXPIRATION_MS", millis(EXPIRATION))
        .env("STORAGE_CONNECTION_STRING", storage);
    command.spawn()
}

/// Twenty events a second to each partition until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(emulator: &Arc<Emulator>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, emulator) = (Arc::clone(&stop), Arc::clone(emulator));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                for partition in PARTITIONS {
                    emulator.send(HUB, Some(partition), "load").unwrap();
                }
            }
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

fn last_of(emulator: &Emulator, partition: &str) -> i64 {
    let properties = emulator.partition_properties(HUB, partition).unwrap();
    properties.last_enqueued_sequence_number
}

/// Waits until the consumers have processed all that the partitions hold.
async fn all_processed(emulator: &Emulator, consumers: &[&Program]) {
    let is_done = async || {
        let lines: Vec<_> = consumers.iter().map(|consumer| consumer.lines()).collect();
        let done = |partition: &&str| {
            let last = last_of(emulator, partition);
            let is_last = |line: &Line| event(line, partition).is_some_and(|(n, _)| n == last);
            lines.iter().any(|lines| lines.iter().rev().any(is_last))
        };
        PARTITIONS.iter().all(done).then_some(())
    };
    assert!(poll(START, is_done).await.is_some(), "{consumers:?}");
}

/// Waits until the stored checkpoints are the partitions' last events.
async fn all_checkpointed(emulator: &Emulator, group: &Group) {
    let is_done = async || {
        let stored = group.checkpoints().await;
        let is_last =
            |partition: &&str| stored.get(*partition) == Some(&last_of(emulator, partition));
        PARTITIONS.iter().all(is_last).then_some(())
    };
    if poll(START, is_done).await.is_none() {
        panic!("not caught up: {:?}", group.checkpoints().await);
    }
}

async fn outage(tools: Tools) {
    let mut azurite = Azurite::start(tools.azurite()).await;
    let proxy = Proxy::start(azurite.addr).await;
    let storage = connection_string(proxy.addr);
    let emulator = Arc::new(emulator(|builder| builder).await);
    // The test itself looks past the proxy.
    let tools = tools.with_storage(connection_string(azurite.addr));
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    let mut a = consumer(&group, "a", &storage);
    let mut b = consumer(&group, "b", &storage);
    group.shared(START, "a", 2, 2).await;
    let load = Load::start(&emulator);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let owners = owners(&group).await;
    let settled = [a.lines().len(), b.lines().len()];
    let calm = proxy.writes().len();

    azurite.stop().await;
    let down = Instant::now();
    tokio::time::sleep(OUTAGE).await;
    load.stop().await;
    all_processed(&emulator, &[&a, &b]).await;
    for partition in PARTITIONS {
        let pause = longest_pause(&[&a, &b], partition, down, down + OUTAGE);
        assert!(
            pause < LONGEST_PAUSE,
            "partition {partition} paused for {pause:?}"
        );
    }

    let before = proxy.writes();
    azurite.start_again().await;
    let up = Instant::now();
    all_checkpointed(&emulator, &group).await;
    // Whoever wanted to take or write more has had the time.
    tokio::time::sleep(EXPIRATION).await;
    let caught_up = proxy.writes().split_off(before.len());
    for partition in PARTITIONS {
        let writes: Vec<_> = caught_up
            .iter()
            .filter(|write| write.partition == partition)
            .collect();
        let numbers: Vec<_> = writes.iter().map(|write| write.sequence_number).collect();
        assert_eq!(
            numbers,
            [last_of(&emulator, partition)],
            "partition {partition}"
        );
        report(&format!(
            "partition {partition}: one write, {:?} after storage came back",
            writes[0].at - up
        ));
    }
    report(&format!(
        "{} writes before the outage, {} during it, {} to catch up",
        calm,
        before.len() - calm,
        caught_up.len()
    ));

    // And it goes on as before.
    let load = Load::start(&emulator);
    tokio::time::sleep(Duration::from_secs(5)).await;
    load.stop().await;
    all_processed(&emulator, &[&a, &b]).await;
    all_checkpointed(&emulator, &group).await;
    assert_eq!(self::owners(&group).await, owners, "ownership moved");
    for (program, settled) in [&a, &b].into_iter().zip(settled) {
        let lines = program.lines().split_off(settled);
        let turns = |line: &&Line| {
            let turn = line.value["lifecycle"].as_str();
            turn.is_some_and(|turn| turn != "error")
        };
        assert!(!lines.iter().any(|line| turns(&line)), "{program:?}");
        let told = errors(&lines);
        let checkpoints = told.iter().filter(|e| e.contains("writing the checkpoint"));
        assert!(checkpoints.count() > 0, "nobody was told: {told:?}");
        report(&format!("{} errors told", told.len()));
    }
    for program in [&mut a, &mut b] {
        program.terminate(START).await;
    }
    let union = Union::of(&[&a, &b]);
    for partition in PARTITIONS {
        union.assert_complete(partition, last_of(&emulator, partition));
        let read: Vec<_> = [&a, &b]
            .iter()
            .flat_map(|program| terms(&program.lines(), partition))
            .filter(|term| term.events.is_some())
            .collect();
        assert!(read.len() <= 2, "{read:?}");
    }
    report(&format!(
        "{} events, {} twice",
        union.events(),
        union.duplicates()
    ));
    drop(azurite);
}

/// Who owns which partition.
async fn owners(group: &Group) -> Vec<(String, String)> {
    use eventhubs_processor::CheckpointStore as _;
    let listing = group.store.list_ownership(&group.scope).await.unwrap();
    let mut owners: Vec<_> = listing
        .ownerships
        .into_iter()
        .map(|ownership| {
            let owner = ownership.owner_id.map(|owner| owner.as_str().to_owned());
            (
                ownership.partition_id.as_str().to_owned(),
                owner.unwrap_or_default(),
            )
        })
        .collect();
    owners.sort();
    owners
}
