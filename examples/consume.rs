//! A consumer for scripts: prints one JSON object a line for every event and every turn of a partition's life.
//!
//! ```text
//! EVENTHUBS_CONNECTION_STRING=… EVENTHUB_NAME=telemetry \
//! STORAGE_CONNECTION_STRING=… CHECKPOINT_CONTAINER=checkpoints \
//! cargo run --example consume
//! ```
//!
//! Optional: `EVENTHUBS_CONSUMER_GROUP` (`$Default`), `START_POSITION` (`earliest` or `latest`),
//! `LOAD_BALANCING_INTERVAL_MS`, `OWNERSHIP_EXPIRATION_MS`, `OWNER_ID`. SIGINT and SIGTERM stop it gracefully. Logs go to
//! stderr, as `RUST_LOG` says.
//!
//! In place of a connection string, `EVENTHUBS_NAMESPACE` and `ACCESS_TOKEN_FILE` do: a file with a token of Microsoft Entra ID
//! that somebody renews, read again every few minutes. Or, with the feature `azure-identity`, `AZURE_CREDENTIAL` in place of
//! the file: `managed`, `workload`, `developer` (what the Azure CLI is logged in with) or `client-secret`, with what
//! azure_identity reads besides (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, …) and `AZURE_CLIENT_SECRET`.
//!
//! The way there: `TRANSPORT_TYPE` is `tcp` or `websockets`, `CUSTOM_ENDPOINT_ADDRESS` is dialled in place of the namespace,
//! `PROXY` is an HTTP proxy such as `http://user:password@proxy:3128`, or `none` (unset, `HTTPS_PROXY` and the like count).
//! `CA_CERTIFICATES` is a file of authorities to trust besides the platform's, `CLIENT_CERTIFICATE` and `CLIENT_KEY` are
//! files of a certificate to show; all PEM. `TRY_TIMEOUT_MS` is the longest time for an operation on Event Hubs, connecting
//! included.
//!
//! Checkpoints: `CHECKPOINT_POLICY` is `manual` (the handler checkpoints every `CHECKPOINT_EVERY` events, 1 unless set),
//! `automatic`, `batch`, a number of events such as `100`, or a time such as `500ms`.

use std::collections::BTreeMap;
use std::env::{self, VarError};
use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use eventhubs_processor::checkpoint::BlobCheckpointStoreOptions;
use eventhubs_processor::credential::{AccessToken, EventHubsCredential, Secret, TokenCredential};
use eventhubs_processor::{
    AmqpOptions, AmqpTransport, BlobCheckpointStore, BoxError, CheckpointPolicy, CloseReason,
    EventHandler, EventPosition, EventProcessor, HandlerResult, HttpProxy, PartitionContext,
    PartitionId, ProcessingError, Proxy, ReceivedEvent, TlsOptions, TransportType,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let (amqp, blobs) = way()?;
    let hub = event_hub(amqp)?;
    let store = BlobCheckpointStore::from_connection_string_with_options(
        &required("STORAGE_CONNECTION_STRING")?,
        &required("CHECKPOINT_CONTAINER")?,
        blobs,
    )
    .map_err(|error| format!("STORAGE_CONNECTION_STRING, CHECKPOINT_CONTAINER: {error}"))?;
    let group = optional("EVENTHUBS_CONSUMER_GROUP")?.unwrap_or_else(|| "$Default".to_owned());
    let start = match optional::<String>("START_POSITION")?.as_deref() {
        None | Some("earliest") => EventPosition::Earliest,
        Some("latest") => EventPosition::Latest,
        Some(other) => {
            return Err(format!("START_POSITION is `{other}`, not earliest or latest").into());
        }
    };
    let mut builder =
        EventProcessor::builder(hub, group, store).with_default_starting_position(start);
    if let Some(interval) = optional("LOAD_BALANCING_INTERVAL_MS")? {
        builder = builder.with_load_balancing_interval(Duration::from_millis(interval));
    }
    if let Some(expiration) = optional("OWNERSHIP_EXPIRATION_MS")? {
        builder = builder.with_partition_ownership_expiration(Duration::from_millis(expiration));
    }
    if let Some(owner_id) = optional::<String>("OWNER_ID")? {
        builder = builder.with_owner_id(owner_id);
    }

    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = stop_signal().await {
            eprintln!("no signal handler: {error}");
        }
        on_signal.cancel();
    });
    let policy = optional("CHECKPOINT_POLICY")?.unwrap_or_else(|| "manual".to_owned());
    let policy = checkpoint_policy(&policy)?;
    let checkpoint_every = match policy {
        CheckpointPolicy::Manual => Some(optional("CHECKPOINT_EVERY")?.unwrap_or(1)),
        _ => None,
    };
    builder
        .with_checkpoint_policy(policy)
        .build(Printer {
            checkpoint_every,
            pending: Mutex::default(),
        })?
        .run(stop)
        .await?;
    Ok(())
}

fn event_hub(options: AmqpOptions) -> Result<AmqpTransport, BoxError> {
    let credential = match (
        optional::<String>("AZURE_CREDENTIAL")?,
        optional("ACCESS_TOKEN_FILE")?,
    ) {
        (Some(kind), _) => identity(&kind)?,
        (None, Some(path)) => EventHubsCredential::token(Arc::new(TokenFile(path))),
        (None, None) => {
            let hub = AmqpTransport::from_connection_string_with_options(
                &required("EVENTHUBS_CONNECTION_STRING")?,
                optional::<String>("EVENTHUB_NAME")?.as_deref(),
                options,
            );
            return hub.map_err(|error| {
                format!("EVENTHUBS_CONNECTION_STRING, EVENTHUB_NAME: {error}").into()
            });
        }
    };
    let namespace = required("EVENTHUBS_NAMESPACE")?;
    AmqpTransport::new(&namespace, required("EVENTHUB_NAME")?, credential, options)
        .map_err(|error| format!("EVENTHUBS_NAMESPACE: {error}").into())
}

/// A token that somebody else keeps fresh in a file.
#[derive(Debug)]
struct TokenFile(String);

#[async_trait]
impl TokenCredential for TokenFile {
    async fn token(&self, _scope: &str) -> Result<AccessToken, BoxError> {
        let token = file("ACCESS_TOKEN_FILE", &self.0)?;
        Ok(AccessToken {
            token: Secret::new(token.trim()),
            // The file does not say. Those who write one renew it well ahead of that.
            expires_at: SystemTime::now() + Duration::from_secs(300),
        })
    }
}

#[cfg(feature = "azure-identity")]
fn identity(kind: &str) -> Result<EventHubsCredential, BoxError> {
    use eventhubs_processor::credential::azure_identity::EntraCredential;
    let identity = match kind {
        "managed" => {
            let client_id = optional::<String>("AZURE_CLIENT_ID")?;
            EntraCredential::managed_identity(client_id.as_deref())
        }
        "workload" => EntraCredential::workload_identity(),
        "developer" => EntraCredential::developer_tools(),
        "client-secret" => EntraCredential::client_secret(
            &required("AZURE_TENANT_ID")?,
            &required("AZURE_CLIENT_ID")?,
            required("AZURE_CLIENT_SECRET")?,
        ),
        other => {
            return Err(format!(
                "AZURE_CREDENTIAL is `{other}`, not managed, workload, developer or client-secret"
            )
            .into());
        }
    };
    let identity = identity.map_err(|error| format!("AZURE_CREDENTIAL: {error}"))?;
    Ok(EventHubsCredential::token(Arc::new(identity)))
}

#[cfg(not(feature = "azure-identity"))]
fn identity(_: &str) -> Result<EventHubsCredential, BoxError> {
    Err("AZURE_CREDENTIAL needs the feature azure-identity".into())
}

/// How both services are reached.
fn way() -> Result<(AmqpOptions, BlobCheckpointStoreOptions), BoxError> {
    let proxy = match optional::<String>("PROXY")?.as_deref() {
        None => Proxy::FromEnvironment,
        Some("none") => Proxy::Direct,
        Some(address) => HttpProxy::new(address)
            .map_err(|error| format!("PROXY: {error}"))?
            .into(),
    };
    let mut tls = TlsOptions::default();
    if let Some(path) = optional::<String>("CA_CERTIFICATES")? {
        tls = tls
            .with_ca_certificates(file("CA_CERTIFICATES", &path)?)
            .map_err(|error| format!("CA_CERTIFICATES: {error}"))?;
    }
    if let Some(path) = optional::<String>("CLIENT_CERTIFICATE")? {
        let certificate = file("CLIENT_CERTIFICATE", &path)?;
        let key = file("CLIENT_KEY", &required("CLIENT_KEY")?)?;
        tls = tls
            .with_client_certificate(certificate, key)
            .map_err(|error| format!("CLIENT_CERTIFICATE, CLIENT_KEY: {error}"))?;
    }
    let mut amqp = AmqpOptions::default()
        .with_proxy(proxy.clone())
        .with_tls(tls.clone());
    match optional::<String>("TRANSPORT_TYPE")?.as_deref() {
        None | Some("tcp") => {}
        Some("websockets") => {
            amqp = amqp.with_transport_type(TransportType::AmqpWebSockets);
        }
        Some(other) => {
            return Err(format!("TRANSPORT_TYPE is `{other}`, not tcp or websockets").into());
        }
    }
    if let Some(address) = optional::<String>("CUSTOM_ENDPOINT_ADDRESS")? {
        amqp = amqp.with_custom_endpoint_address(address);
    }
    if let Some(limit) = optional("TRY_TIMEOUT_MS")? {
        let limit = Duration::from_millis(limit);
        amqp.connect_timeout = amqp.connect_timeout.min(limit);
        amqp = amqp.with_operation_timeout(limit);
    }
    let blobs = BlobCheckpointStoreOptions::default()
        .with_proxy(proxy)
        .with_tls(tls);
    Ok((amqp, blobs))
}

fn file(name: &str, path: &str) -> Result<String, BoxError> {
    std::fs::read_to_string(path).map_err(|error| format!("{name}, {path}: {error}").into())
}

fn checkpoint_policy(text: &str) -> Result<CheckpointPolicy, BoxError> {
    let milliseconds = text.strip_suffix("ms").map(str::parse);
    match (text, text.parse::<NonZeroU64>(), milliseconds) {
        ("manual", ..) => Ok(CheckpointPolicy::Manual),
        ("automatic", ..) => Ok(CheckpointPolicy::Automatic),
        ("batch", ..) => Ok(CheckpointPolicy::EveryBatch),
        (_, Ok(events), _) => Ok(CheckpointPolicy::EveryEvents(events)),
        (_, _, Some(Ok(time))) => Ok(CheckpointPolicy::Every(Duration::from_millis(time))),
        _ => Err(format!(
            "CHECKPOINT_POLICY is `{text}`, not manual, automatic, batch, a number of events or a time in ms"
        )
        .into()),
    }
}

/// Prints what happens, and checkpoints every so many events if nobody else does.
struct Printer {
    checkpoint_every: Option<u64>,
    /// Events since the last checkpoint and the last of them, by partition.
    pending: Mutex<BTreeMap<PartitionId, (u64, ReceivedEvent)>>,
}

impl Printer {
    /// Notes an event as processed. Returns whether a checkpoint is due.
    fn processed(&self, partition_id: &PartitionId, event: &ReceivedEvent) -> bool {
        let Some(checkpoint_every) = self.checkpoint_every else {
            return false;
        };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, last) = pending
            .entry(partition_id.clone())
            .or_insert_with(|| (0, event.clone()));
        *count += 1;
        *last = event.clone();
        let is_due = *count >= checkpoint_every;
        if is_due {
            pending.remove(partition_id);
        }
        is_due
    }

    fn take_pending(&self, partition_id: &PartitionId) -> Option<ReceivedEvent> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.remove(partition_id).map(|(_, event)| event)
    }
}

impl EventHandler for Printer {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let enqueued = event.enqueued_time().duration_since(UNIX_EPOCH)?;
        print_line(&json!({ "event": {
            "owner": context.owner_id().as_str(),
            "partition": context.partition_id().as_str(),
            "sequence_number": event.sequence_number(),
            "offset": event.offset().as_str(),
            "enqueued_time_ms": u64::try_from(enqueued.as_millis())?,
            "body": event.body_as_str(),
        }}))?;
        if self.processed(context.partition_id(), &event) {
            context.update_checkpoint(&event).await?;
        }
        Ok(())
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        // What an earlier term left uncheckpointed is read again.
        self.take_pending(context.partition_id());
        print_lifecycle("initialize", Some(context), None)?;
        Ok(None)
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        if reason == CloseReason::Shutdown
            && let Some(event) = self.take_pending(context.partition_id())
        {
            context.update_checkpoint(&event).await?;
        }
        print_lifecycle("close", Some(context), Some(&reason.to_string()))?;
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        let reason = chain(error);
        if let Err(error) = print_lifecycle("error", context, Some(&reason)) {
            eprintln!("{reason} ({error})");
        }
    }
}

/// An error with the errors behind it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

fn print_lifecycle(
    what: &str,
    context: Option<&PartitionContext>,
    reason: Option<&str>,
) -> io::Result<()> {
    let partition = context.map(|context| context.partition_id().as_str());
    print_line(&json!({ "lifecycle": what, "partition": partition, "reason": reason }))
}

/// A line goes out whole and at once, so that whoever kills this process sees all it did.
fn print_line(line: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn required(name: &str) -> Result<String, BoxError> {
    optional(name)?
        .ok_or_else(|| format!("the environment variable {name} is not set or empty").into())
}

fn optional<T: FromStr>(name: &str) -> Result<Option<T>, BoxError> {
    match env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!(
                "the environment variable {name} has a value that cannot be read"
            )
            .into()),
        },
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(format!("the environment variable {name} is not UTF-8").into())
        }
    }
}

#[cfg(unix)]
async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn stop_signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
