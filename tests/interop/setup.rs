//! What a test works with: the tools it was given, an emulator, a container, and deadlines.

use std::collections::BTreeMap;
use std::env;
use std::future::Future;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use eventhubs_emulator::{Emulator, EmulatorBuilder};
use eventhubs_processor::{BlobCheckpointStore, CheckpointStore as _, GroupScope, Ownership};
use serde_json::Value;
use uuid::Uuid;

use crate::program::{Command, Program};

pub(crate) const HUB: &str = "telemetry";
pub(crate) const PARTITIONS: [&str; 4] = ["0", "1", "2", "3"];
/// Long enough for a Python program to start, or for one of ours to end, on a machine that builds something else too. No
/// promise: where time is promised, a test has a limit of its own.
pub(crate) const START: Duration = Duration::from_secs(90);

/// What the tests were given.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    python: PathBuf,
    azurite: PathBuf,
    /// Where the packages of `js/package.json` are.
    js: PathBuf,
    /// Where the programs of `rust-0.15` and `rust-0.16` are.
    rust_clients: PathBuf,
    storage_connection_string: String,
}

impl Tools {
    /// `None`, with a line that is seen, unless `EHP_INTEROP` is set.
    pub(crate) fn from_env(test: &str) -> Option<Self> {
        if env::var_os("EHP_INTEROP").is_none_or(|value| value.is_empty() || value == "0") {
            report(&format!("SKIPPED: {test}: EHP_INTEROP is not set"));
            return None;
        }
        let required = |name: &str| {
            env::var(name).unwrap_or_else(|_| panic!("EHP_INTEROP is set and {name} is not"))
        };
        let storage_connection_string = required("EHP_AZURITE_CONNECTION_STRING");
        assert_reachable(&storage_connection_string);
        Some(Self {
            python: required("EHP_PYTHON").into(),
            azurite: required("EHP_AZURITE_PROGRAM").into(),
            js: required("EHP_JS").into(),
            rust_clients: required("EHP_RUST_CLIENTS").into(),
            storage_connection_string,
        })
    }

    /// The program of Azurite, for node.
    pub(crate) fn azurite(&self) -> &Path {
        &self.azurite
    }

    /// The same with another storage account.
    pub(crate) fn with_storage(self, storage_connection_string: String) -> Self {
        Self {
            storage_connection_string,
            ..self
        }
    }

    /// One of the programs in `python`.
    pub(crate) fn python(&self, file: &str) -> Command {
        let path = beside("python").join(file);
        Command::new(file, &self.python).arg("-B").arg(path)
    }

    /// One of the programs in `js`.
    pub(crate) fn js(&self, file: &str) -> Command {
        Command::new(file, Path::new("node"))
            .arg(beside("js").join(file))
            .env("EHP_JS", &self.js)
    }

    /// One of the programs in `rust-0.15` and `rust-0.16`.
    pub(crate) fn rust_client(&self, name: &str) -> Command {
        let path = self.rust_clients.join(name);
        assert!(path.exists(), "{} is missing", path.display());
        Command::new(name, &path)
    }

    /// Runs a command of `store.py` on Azurite and returns what it printed.
    pub(crate) async fn store_py(&self, container: &str, arguments: &[&str]) -> Value {
        self.store_py_at(&self.storage_connection_string, container, arguments)
            .await
    }

    async fn store_py_at(
        &self,
        storage_connection_string: &str,
        container: &str,
        arguments: &[&str],
    ) -> Value {
        let mut program = self
            .python("store.py")
            .args(arguments)
            .env("STORAGE_CONNECTION_STRING", storage_connection_string)
            .env("CHECKPOINT_CONTAINER", container)
            .spawn();
        program.exited(START).await;
        program.succeeded();
        let lines = program.lines();
        assert_eq!(lines.len(), 1, "{program:?}");
        Value::clone(&lines[0].value)
    }

    /// Lists the records of a group on Azurite with `store.mjs` and returns what it printed.
    pub(crate) async fn store_js(&self, container: &str, names: &[&str]) -> Value {
        let mut program = self
            .js("store.mjs")
            .args(names)
            .env("STORAGE_CONNECTION_STRING", &self.storage_connection_string)
            .env("CHECKPOINT_CONTAINER", container)
            .env("STORAGE_BLOB_PACKAGE", "storage-blob-for-azurite")
            .spawn();
        program.exited(START).await;
        program.succeeded();
        let lines = program.lines();
        assert_eq!(lines.len(), 1, "{program:?}");
        Value::clone(&lines[0].value)
    }

    /// Where Azurite is.
    pub(crate) fn storage(&self) -> &str {
        &self.storage_connection_string
    }

    /// A container of its own for each test.
    pub(crate) async fn create_container(&self) -> String {
        let container = format!("interop-{}", Uuid::new_v4().simple());
        self.store_py(&container, &["create-container"]).await;
        container
    }

    pub(crate) fn store(&self, container: &str) -> BlobCheckpointStore {
        BlobCheckpointStore::from_connection_string(&self.storage_connection_string, container)
            .unwrap()
    }
}

/// Where the blobs of a group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blobs {
    Azurite,
    /// The emulator's own.
    Emulator,
}

/// A consumer group with its event hub and its records.
#[derive(Debug)]
pub(crate) struct Group {
    tools: Tools,
    hub: String,
    blobs: Blobs,
    pub(crate) event_hubs_connection_string: String,
    storage_connection_string: String,
    pub(crate) container: String,
    pub(crate) store: BlobCheckpointStore,
    pub(crate) scope: GroupScope,
}

impl Group {
    /// A group of the event hub [`HUB`], on Azurite.
    pub(crate) async fn new(tools: Tools, event_hubs_connection_string: &str) -> Self {
        let container = tools.create_container().await;
        let storage = tools.storage_connection_string.clone();
        Self {
            hub: HUB.to_owned(),
            blobs: Blobs::Azurite,
            event_hubs_connection_string: event_hubs_connection_string.to_owned(),
            store: tools.store(&container),
            scope: GroupScope::new(host(event_hubs_connection_string), HUB, "$Default"),
            storage_connection_string: storage,
            container,
            tools,
        }
    }

    /// A group of any event hub of an emulator.
    pub(crate) async fn of(tools: &Tools, emulator: &Emulator, hub: &str, blobs: Blobs) -> Self {
        let mut group = Self::new(tools.clone(), &emulator.event_hubs_connection_string()).await;
        group.scope = GroupScope::new(host(&group.event_hubs_connection_string), hub, "$default");
        hub.clone_into(&mut group.hub);
        group.blobs = blobs;
        if blobs == Blobs::Emulator {
            emulator.create_container(&group.container).unwrap();
            group.storage_connection_string = emulator.storage_connection_string();
            group.store = BlobCheckpointStore::from_connection_string(
                &group.storage_connection_string,
                &group.container,
            )
            .unwrap();
        }
        group
    }

    /// A URL of the container with a signature in it: all that the official Rust store takes without TLS.
    pub(crate) async fn container_url(&self) -> String {
        let told = self
            .tools
            .store_py_at(
                &self.storage_connection_string,
                &self.container,
                &["container-url"],
            )
            .await;
        told["url"].as_str().unwrap().to_owned()
    }

    /// `python/produce.py`
    pub(crate) fn producer(&self, arguments: &[&str]) -> Command {
        self.with_environment(self.tools.python("produce.py"))
            .args(arguments)
    }

    /// `python/consume.py`
    pub(crate) fn python_consumer(&self) -> Command {
        self.with_environment(self.tools.python("consume.py"))
    }

    /// `examples/consume.rs`
    pub(crate) fn consumer(&self) -> Command {
        self.with_environment(Command::new("consume", &built("examples/consume")))
    }

    /// What consumers and producers of this group are told.
    pub(crate) fn with_environment(&self, command: Command) -> Command {
        let command = command
            .env(
                "EVENTHUBS_CONNECTION_STRING",
                &self.event_hubs_connection_string,
            )
            .env("EVENTHUB_NAME", &self.hub)
            .env("STORAGE_CONNECTION_STRING", &self.storage_connection_string)
            .env("CHECKPOINT_CONTAINER", &self.container);
        match self.blobs {
            // INTEROP: Azurite 3.35 answers requests up to version 2025-11-05; the newest package asks for more.
            Blobs::Azurite => command.env("STORAGE_BLOB_PACKAGE", "storage-blob-for-azurite"),
            Blobs::Emulator => command,
        }
    }

    pub(crate) async fn listing(&self) -> Vec<Ownership> {
        let listing = self.store.list_ownership(&self.scope).await.unwrap();
        listing.ownerships
    }

    /// How many partitions each owner has; what nobody has is under the empty name.
    pub(crate) async fn owners(&self) -> BTreeMap<String, usize> {
        let mut owners = BTreeMap::new();
        for ownership in self.listing().await {
            let owner = ownership
                .owner_id
                .map_or_else(String::new, |id| id.as_str().to_owned());
            *owners.entry(owner).or_default() += 1;
        }
        owners
    }

    /// Waits until the partitions are shared so: how many the named owner has, and how many others have.
    pub(crate) async fn shared(&self, limit: Duration, owner: &str, own: usize, others: usize) {
        let mut seen = BTreeMap::new();
        let is_shared = async || {
            seen = self.owners().await;
            let named = seen.get(owner).copied().unwrap_or_default();
            let free = seen.get("").copied().unwrap_or_default();
            let total: usize = seen.values().sum();
            (named == own && total - named - free == others && free == 0).then_some(())
        };
        if poll(limit, is_shared).await.is_none() {
            panic!("not within {limit:?}: {own} for {owner}, {others} for others; it is {seen:?}");
        }
    }

    /// Sequence numbers of the checkpoints, by partition.
    pub(crate) async fn checkpoints(&self) -> BTreeMap<String, i64> {
        let stored = self.store.list_checkpoints(&self.scope).await.unwrap();
        let of = |stored: eventhubs_processor::checkpoint::StoredCheckpoint| {
            let partition = stored.checkpoint.partition_id.as_str().to_owned();
            (partition, stored.checkpoint.sequence_number.unwrap())
        };
        stored.into_iter().map(of).collect()
    }
}

/// An emulator in this process, with one event hub of four partitions.
pub(crate) async fn emulator(
    settings: impl FnOnce(EmulatorBuilder) -> EmulatorBuilder,
) -> Emulator {
    let builder = Emulator::builder().with_hub(HUB, 4);
    settings(builder).start().await.unwrap()
}

/// An emulator in this process, on a port that connection strings need not name: Python and JS agree on the names of
/// blobs then.
///
/// Everybody expects that port, so each emulator gets an address of its own out of 127.0.0.0/8: one network for each
/// process of tests, one address for each call. Linux has them all; elsewhere they have to be added to the loopback
/// interface.
pub(crate) async fn emulator_at_5672(
    settings: impl FnOnce(EmulatorBuilder) -> EmulatorBuilder,
) -> Emulator {
    static USED: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, high, low, USED.fetch_add(1, Ordering::Relaxed) + 1);
    let builder = Emulator::builder()
        .with_host(host.into())
        .with_amqp_port(5672);
    match settings(builder).start().await {
        Ok(emulator) => emulator,
        Err(error) => panic!("no emulator at {host}: {error}"),
    }
}

/// Connection strings of an emulator.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) event_hubs: String,
    pub(crate) storage: String,
}

/// The emulator as a program of its own.
pub(crate) async fn emulator_program() -> (Program, Addresses) {
    let program = Command::new("eventhubs-emulator", &built("eventhubs-emulator"))
        .args(&["--ready-json", "--port", "0", "--blob-port", "0"])
        .args(&["--hub", &format!("{HUB}:4")])
        .spawn();
    let addresses = program
        .wait_for("its addresses", START, |lines| {
            let ready = &lines.first()?.value;
            Some(Addresses {
                event_hubs: ready["eventhubs_connection_string"].as_str()?.to_owned(),
                storage: ready["storage_connection_string"].as_str()?.to_owned(),
            })
        })
        .await;
    (program, addresses)
}

/// A directory next to this file.
fn beside(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(directory)
}

/// A program that cargo put beside this one.
fn built(path: &str) -> PathBuf {
    let deps = env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join(path);
    assert!(
        path.exists(),
        "{} is missing: cargo build --workspace --all-features --bins --examples",
        path.display()
    );
    path
}

/// An SDK that finds nobody there would try again for a minute before it says so.
fn assert_reachable(storage_connection_string: &str) {
    let (_, endpoint) = storage_connection_string
        .split_once("BlobEndpoint=http://")
        .expect("a BlobEndpoint");
    let address = endpoint.split('/').next().unwrap();
    if let Err(error) = std::net::TcpStream::connect(address) {
        panic!("no Azurite at {address}: {error}");
    }
}

/// Host and port of the namespace, as they stand in the names of its records.
fn host(connection_string: &str) -> &str {
    let (_, rest) = connection_string.split_once("Endpoint=sb://").unwrap();
    rest.split([';', '/']).next().unwrap()
}

/// Asks until there is an answer; `None` if there is none in time.
pub(crate) async fn poll<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit, asking).await.ok()
}

/// The test has to be over by then, whatever it waits for.
pub(crate) async fn within(limit: Duration, test: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, test).await.is_err() {
        panic!("the test was not over within {limit:?}");
    }
}

/// A line for whoever reads the log; the test harness swallows `println!` and `eprintln!`.
pub(crate) fn report(line: &str) {
    let line = format!("    {line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
