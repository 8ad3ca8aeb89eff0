//! Two processors share an event hub, one crashes, the other takes over, and nothing is lost.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Without further ado it runs against the emulator, in this process. With `EVENTHUBS_CONNECTION_STRING`,
//! `EVENTHUB_NAME`, `STORAGE_CONNECTION_STRING` and `CHECKPOINT_CONTAINER` set, the same program runs against those.
//! It exits with an error if an event was lost.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use eventhubs_emulator::Emulator;
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, BoxError, CloseReason, EventHandler, EventPosition,
    EventProcessor, HandlerResult, PartitionContext, PartitionId, ProcessingError, ProcessorHandle,
    ReceivedEvent, Transport as _,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Events a second in each partition.
const RATE: u64 = 20;
/// Checkpoint after so many events of a partition: what a crash may repeat.
const CHECKPOINT_EVERY: u64 = 10;
/// How long the event hub is produced to.
const PRODUCE_FOR: Duration = Duration::from_secs(22);
const SECOND_STARTS: Duration = Duration::from_secs(4);
const FIRST_CRASHES: Duration = Duration::from_secs(10);
const CATCH_UP: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(verdict) => {
            println!("\n{verdict}");
            if verdict.lost == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<Verdict, BoxError> {
    let world = World::find().await?;
    let partitions = world
        .transport()?
        .event_hub_properties()
        .await?
        .partition_ids;
    let board = Board::new(&partitions);
    board.print_header(&world.description);

    let stop_producing = CancellationToken::new();
    let producing = tokio::spawn(produce(
        world.transport()?,
        board.clone(),
        stop_producing.clone(),
    ));
    let picture = tokio::spawn(board.clone().print_rows());

    board.announce("processor A starts");
    let a = run_for(SECOND_STARTS, world.start("A", &board)?).await?;
    board.announce("processor B starts and takes its share");
    let b = run_for(FIRST_CRASHES - SECOND_STARTS, world.start("B", &board)?).await?;
    board
        .announce("processor A crashes: nothing is given back, its partitions wait for the expiry");
    drop(a);
    board.crashed("A");
    let b = run_for(PRODUCE_FOR - FIRST_CRASHES, b).await?;
    board.announce("the producer stops");
    stop_producing.cancel();
    producing.await??;

    let caught_up = timeout(CATCH_UP, board.all_processed()).await.is_ok();
    if !caught_up {
        board.announce("events are still missing; giving up");
    }
    board.announce("processor B stops: last checkpoints, partitions given back");
    b.shutdown().await?;
    picture.abort();
    Ok(board.verdict())
}

/// Lets a processor run for a while. It ends earlier only if it cannot work at all.
async fn run_for(time: Duration, processor: ProcessorHandle) -> Result<ProcessorHandle, BoxError> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if processor.is_finished() {
            processor.join().await?;
            return Err("the processor stopped by itself".into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(processor)
}

/// Where the quickstart runs.
struct World {
    description: String,
    event_hubs: String,
    event_hub: Option<String>,
    storage: String,
    container: String,
    started: SystemTime,
    /// Kept alive as long as the world.
    _emulator: Option<Emulator>,
}

impl World {
    async fn find() -> Result<Self, BoxError> {
        let started = SystemTime::now();
        let Ok(event_hubs) = env::var("EVENTHUBS_CONNECTION_STRING") else {
            let emulator = Emulator::builder()
                .with_hub("quickstart", 4)
                .start()
                .await?;
            emulator.create_container("checkpoints")?;
            return Ok(Self {
                description: "the emulator in this process".to_owned(),
                event_hubs: emulator.event_hubs_connection_string(),
                event_hub: Some("quickstart".to_owned()),
                storage: emulator.storage_connection_string(),
                container: "checkpoints".to_owned(),
                started,
                _emulator: Some(emulator),
            });
        };
        let variable = |name| env::var(name).map_err(|error| format!("{name}: {error}"));
        Ok(Self {
            description: "the event hub of EVENTHUBS_CONNECTION_STRING".to_owned(),
            event_hubs,
            event_hub: env::var("EVENTHUB_NAME").ok(),
            storage: variable("STORAGE_CONNECTION_STRING")?,
            container: variable("CHECKPOINT_CONTAINER")?,
            started,
            _emulator: None,
        })
    }

    fn transport(&self) -> Result<AmqpTransport, BoxError> {
        let event_hub = self.event_hub.as_deref();
        Ok(AmqpTransport::from_connection_string(
            &self.event_hubs,
            event_hub,
        )?)
    }

    /// Starts one processor. This is all a service needs.
    fn start(&self, name: &'static str, board: &Board) -> Result<ProcessorHandle, BoxError> {
        let store = BlobCheckpointStore::from_connection_string(&self.storage, &self.container)?;
        let group = env::var("EVENTHUBS_CONSUMER_GROUP").unwrap_or_else(|_| "$Default".to_owned());
        let processor = EventProcessor::builder(self.transport()?, group, store)
            // A service keeps the defaults; these are for watching.
            .with_load_balancing_interval(Duration::from_secs(1))
            .with_partition_ownership_expiration(Duration::from_secs(5))
            // Some minutes ahead of now, since the service's clock is another.
            .with_default_starting_position(EventPosition::enqueued_time(
                self.started - Duration::from_secs(120),
            ))
            .build(Worker {
                name,
                board: board.clone(),
            })?;
        Ok(processor.spawn())
    }
}

/// The application: notes what it processed and checkpoints now and then.
struct Worker {
    name: &'static str,
    board: Board,
}

impl EventHandler for Worker {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let count = self.board.processed(context.partition_id(), &event);
        if count.is_multiple_of(CHECKPOINT_EVERY) {
            context.update_checkpoint(&event).await?;
        }
        Ok(())
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        self.board.owned_by(context.partition_id(), Some(self.name));
        Ok(None)
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        if reason == CloseReason::Shutdown {
            if let Some(last) = self.board.last(context.partition_id()) {
                context.update_checkpoint(&last).await?;
            }
            self.board.owned_by(context.partition_id(), None);
        }
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        let place = context.map_or(String::new(), |c| {
            format!(", partition {}", c.partition_id())
        });
        let cause = std::error::Error::source(error).map_or(String::new(), |c| format!(": {c}"));
        self.board
            .announce(&format!("{}{place}: {error}{cause}", self.name));
    }
}

/// Sends to every partition at a steady rate and notes what the service has accepted.
async fn produce(
    hub: AmqpTransport,
    board: Board,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut producers = JoinSet::new();
    let hub = Arc::new(hub);
    for partition_id in board.partitions() {
        let (hub, board, stop) = (Arc::clone(&hub), board.clone(), stop.clone());
        producers.spawn(async move {
            let mut sender = hub.open_sender(Some(&partition_id)).await?;
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(RATE)?);
            let mut number = 0_u64;
            while !stop.is_cancelled() {
                ticks.tick().await;
                let id = format!("{}/{partition_id}/{number}", board.run_id);
                sender.send(id.clone()).await?;
                board.produced(id);
                number += 1;
            }
            sender.close().await;
            Ok::<_, BoxError>(())
        });
    }
    while let Some(produced) = producers.join_next().await {
        produced??;
    }
    hub.close().await;
    Ok(())
}

/// What everybody knows.
#[derive(Clone)]
struct Board {
    run_id: Arc<str>,
    begun: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<PartitionId, Row>,
    produced: BTreeSet<String>,
    /// How often each event of this run was processed.
    processed: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Row {
    owner: Option<&'static str>,
    is_orphan: bool,
    count: u64,
    last: Option<ReceivedEvent>,
}

struct Verdict {
    produced: usize,
    processed: usize,
    lost: usize,
    duplicates: u64,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            produced,
            processed,
            lost,
            duplicates,
        } = self;
        write!(
            f,
            "produced={produced} processed={processed} lost={lost} duplicates={duplicates}"
        )
    }
}

impl Board {
    fn new(partitions: &[PartitionId]) -> Self {
        let rows = partitions
            .iter()
            .map(|id| (id.clone(), Row::default()))
            .collect();
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            run_id: since_epoch.as_millis().to_string().into(),
            begun: Instant::now(),
            state: Arc::new(Mutex::new(State {
                rows,
                ..State::default()
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.lock().rows.keys().cloned().collect()
    }

    fn produced(&self, id: String) {
        self.lock().produced.insert(id);
    }

    /// Notes an event. Returns how many this partition has had.
    fn processed(&self, partition_id: &PartitionId, event: &ReceivedEvent) -> u64 {
        let mut state = self.lock();
        let id = event.body_as_str().into_owned();
        if id.starts_with(&*self.run_id) {
            *state.processed.entry(id).or_default() += 1;
        }
        let row = state.rows.entry(partition_id.clone()).or_default();
        row.count += 1;
        row.last = Some(event.clone());
        row.count
    }

    fn last(&self, partition_id: &PartitionId) -> Option<ReceivedEvent> {
        self.lock()
            .rows
            .get(partition_id)
            .and_then(|row| row.last.clone())
    }

    fn owned_by(&self, partition_id: &PartitionId, owner: Option<&'static str>) {
        let mut state = self.lock();
        let row = state.rows.entry(partition_id.clone()).or_default();
        row.owner = owner;
        row.is_orphan = false;
    }

    fn crashed(&self, owner: &str) {
        for row in self
            .lock()
            .rows
            .values_mut()
            .filter(|row| row.owner == Some(owner))
        {
            row.is_orphan = true;
        }
    }

    async fn all_processed(&self) {
        while !self.lock().is_complete() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn verdict(&self) -> Verdict {
        let state = self.lock();
        Verdict {
            produced: state.produced.len(),
            processed: state.processed.len(),
            lost: state
                .produced
                .iter()
                .filter(|id| !state.processed.contains_key(*id))
                .count(),
            duplicates: state.processed.values().map(|times| times - 1).sum(),
        }
    }

    fn print_header(&self, place: &str) {
        println!(
            "Two processors on {place}.\nEach column is a partition: its owner and the last event processed.\n"
        );
        print!("{:>7} ", "time");
        for partition_id in self.partitions() {
            print!("  {:<8}", format!("p{partition_id}"));
        }
        println!("  produced  processed");
    }

    async fn print_rows(self) {
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            self.print_row();
        }
    }

    fn print_row(&self) {
        let state = self.lock();
        let mut line = format!("{:>5.1} s ", self.begun.elapsed().as_secs_f64());
        for row in state.rows.values() {
            let owner = if row.is_orphan {
                "†"
            } else {
                row.owner.unwrap_or("-")
            };
            let last = row
                .last
                .as_ref()
                .map_or(String::new(), |e| e.sequence_number().to_string());
            line += &format!("  {} {last:<6}", colored(owner));
        }
        println!(
            "{line}  {:>8}  {:>9}",
            state.produced.len(),
            state.processed.len()
        );
    }

    fn announce(&self, what: &str) {
        println!("{:>5.1} s   -- {what}", self.begun.elapsed().as_secs_f64());
    }
}

impl State {
    fn is_complete(&self) -> bool {
        self.produced
            .iter()
            .all(|id| self.processed.contains_key(id))
    }
}

fn colored(owner: &str) -> String {
    let color = match owner {
        _ if !stdout().is_terminal() => return owner.to_owned(),
        "A" => 36,
        "B" => 33,
        _ => 31,
    };
    format!("\x1b[1;{color}m{owner}\x1b[0m")
}
