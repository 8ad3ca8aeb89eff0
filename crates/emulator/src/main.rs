//! `eventhubs-emulator`: an Event Hubs namespace and a storage account on this machine.

#![forbid(unsafe_code)]

mod operation;
#[cfg(feature = "watch")]
mod watch;

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use eventhubs_emulator::Emulator;
use tracing_subscriber::EnvFilter;

/// A local Azure Event Hubs and Blob checkpoint emulator.
///
/// Everything is kept in memory unless --data is given. Logs go to standard error; RUST_LOG chooses
/// them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Allow a host address that other machines can reach.
    #[arg(long)]
    listen_public: bool,
    /// AMQP port; 0 is any free one.
    #[arg(long, default_value_t = 5672)]
    port: u16,
    /// Blob port; 0 is any free one.
    #[arg(long, default_value_t = 10000)]
    blob_port: u16,
    /// Event hub and its number of partitions; repeatable. Without any, and none from --config or
    /// --data, there is eventhub:4.
    #[arg(long = "hub", value_name = "NAME:PARTITIONS", value_parser = parse_hub)]
    hubs: Vec<(String, u32)>,
    /// Blob container to create; repeatable.
    #[arg(long = "container", value_name = "NAME", default_value = "checkpoints")]
    containers: Vec<String>,
    /// Name of the shared access key.
    #[arg(
        long,
        requires = "sas_key",
        default_value = "RootManageSharedAccessKey"
    )]
    sas_key_name: String,
    /// Shared access key; without one every token is accepted.
    #[arg(long)]
    sas_key: Option<String>,
    /// Events a partition keeps at most.
    #[arg(long, default_value_t = 1_000_000)]
    retention_events: usize,
    /// Mebibytes a partition keeps at most.
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    retention_mib: usize,
    #[command(flatten)]
    operation: operation::Operation,
    /// Port for AMQP over TLS, by custom 5671; 0 is any free one.
    #[arg(long, value_name = "PORT")]
    tls_port: Option<u16>,
    /// Port for AMQP over WebSockets without TLS; 0 is any free one.
    #[arg(long, value_name = "PORT")]
    ws_port: Option<u16>,
    /// Port for AMQP over WebSockets with TLS, by custom 443; 0 is any free one.
    #[arg(long, value_name = "PORT")]
    wss_port: Option<u16>,
    /// Further host name or address of the certificate; repeatable.
    #[arg(long = "tls-name", value_name = "NAME")]
    tls_names: Vec<String>,
    /// Chain of certificates to show, as PEM; one is made otherwise.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "print_ca"
    )]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Write the certificate that clients have to trust to a file.
    #[arg(long, value_name = "FILE")]
    print_ca: Option<PathBuf>,
    /// Port for faults and state over HTTP, on loopback only; 0 is any free one.
    #[arg(long, value_name = "PORT")]
    control_port: Option<u16>,
    /// Print one line of JSON when ready, and nothing else.
    #[arg(long)]
    ready_json: bool,
    /// Show event hubs, receivers and rates in the terminal until q is pressed.
    #[cfg(feature = "watch")]
    #[arg(long, conflicts_with = "ready_json")]
    watch: bool,
}

fn parse_hub(text: &str) -> Result<(String, u32), String> {
    let expected = || format!("'{text}' is not of the form NAME:PARTITIONS");
    let (name, partitions) = text.rsplit_once(':').ok_or_else(expected)?;
    Ok((name.to_owned(), partitions.parse().map_err(|_| expected())?))
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let arguments = Arguments::parse();
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    #[cfg(feature = "watch")]
    if arguments.watch {
        return exit_code(watch_run(arguments, log).await);
    }
    log.with_writer(std::io::stderr).init();
    exit_code(run(arguments).await)
}

/// As [`run`], with the terminal taken.
#[cfg(feature = "watch")]
async fn watch_run(
    arguments: Arguments,
    log: tracing_subscriber::fmt::SubscriberBuilder<
        tracing_subscriber::fmt::format::DefaultFields,
        tracing_subscriber::fmt::format::Format,
        EnvFilter,
    >,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    use std::io::IsTerminal;
    let tail = watch::LogTail::default();
    if let Err(error) = watch::check_terminal() {
        log.with_writer(std::io::stderr).init();
        return Err(error);
    }
    // What is sent elsewhere goes there as usual.
    if std::io::stderr().is_terminal() {
        let log = log.compact().with_ansi(false).with_target(false);
        let log = log.with_timer(tracing_subscriber::fmt::time::uptime());
        log.with_writer(tail.clone()).init();
    } else {
        log.with_writer(std::io::stderr).init();
    }
    let (emulator, stop_signal) = prepare(arguments).await?;
    let shown = watch::run(&emulator, &tail, stop_signal).await;
    emulator.stop().await;
    shown
}

fn exit_code(result: Result<(), Box<dyn Error + Send + Sync>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (emulator, stop_signal) = prepare(arguments).await?;
    stop_signal.await;
    tracing::info!("stopping");
    emulator.stop().await;
    Ok(())
}

/// Starts the emulator and says so; with it, what to wait for.
async fn prepare(
    arguments: Arguments,
) -> Result<(Emulator, impl Future<Output = ()>), Box<dyn Error + Send + Sync>> {
    // A thousand connections and a file per partition are more than many systems start with.
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the limit of open files stays");
    }
    // Before the first line of output: whoever waits for it may signal at once.
    let stop_signal = stop_signal()?;
    if !arguments.host.is_loopback() && arguments.listen_public {
        tracing::warn!(host = %arguments.host, "other machines can reach this emulator");
    }
    let is_json = arguments.ready_json;
    let ca_file = arguments.print_ca.clone();
    let emulator = start(arguments).await?;
    if let Some(file) = &ca_file {
        let pem = emulator
            .ca_certificate_pem()
            .ok_or("--print-ca needs --tls-port or --wss-port")?;
        std::fs::write(file, pem)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    announce(&emulator, is_json, ca_file.as_deref())?;
    Ok((emulator, stop_signal))
}

async fn start(arguments: Arguments) -> Result<Emulator, Box<dyn Error + Send + Sync>> {
    let mut builder = Emulator::builder()
        .with_host(arguments.host)
        .with_public_listener(arguments.listen_public)
        .with_amqp_port(arguments.port)
        .with_blob_port(arguments.blob_port)
        .with_retention(
            arguments.retention_events,
            arguments.retention_mib.saturating_mul(1 << 20),
        );
    builder = arguments.operation.apply(builder)?;
    for (name, partitions) in arguments.hubs {
        builder = builder.with_hub(name, partitions);
    }
    for name in arguments.containers {
        builder = builder.with_container(name);
    }
    if let Some(key) = arguments.sas_key {
        builder = builder.with_sas_key(arguments.sas_key_name, key);
    }
    if let Some(port) = arguments.control_port {
        builder = builder.with_control_port(port);
    }
    if let Some(port) = arguments.tls_port {
        builder = builder.with_tls_port(port);
    }
    if let Some(port) = arguments.ws_port {
        builder = builder.with_ws_port(port);
    }
    if let Some(port) = arguments.wss_port {
        builder = builder.with_wss_port(port);
    }
    for name in arguments.tls_names {
        builder = builder.with_tls_name(name);
    }
    if let (Some(chain), Some(key)) = (arguments.tls_cert, arguments.tls_key) {
        let read = |file: PathBuf| {
            std::fs::read_to_string(&file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))
        };
        builder = builder.with_tls_identity(read(chain)?, read(key)?);
    }
    Ok(builder.start().await?)
}

fn announce(emulator: &Emulator, is_json: bool, ca_file: Option<&Path>) -> std::io::Result<()> {
    let event_hubs = emulator.event_hubs_connection_string();
    let storage = emulator.storage_connection_string();
    let mut out = std::io::stdout().lock();
    if is_json {
        let mut line = serde_json::json!({
            "amqp_port": emulator.amqp_addr().port(),
            "blob_port": emulator.blob_addr().port(),
            "eventhubs_connection_string": event_hubs,
            "storage_connection_string": storage,
        });
        for (name, address) in optional_ports(emulator) {
            line[name] = address.port().into();
        }
        if let Some(file) = ca_file {
            line["ca_file"] = file.display().to_string().into();
        }
        writeln!(out, "{line}")?;
    } else {
        let amqp = emulator.amqp_addr();
        writeln!(
            out,
            "Event Hubs on {amqp}, blobs on {}",
            emulator.blob_addr()
        )?;
        writeln!(out)?;
        writeln!(out, "Python, JavaScript, .NET, Java (5.19.2 or later), Go:")?;
        writeln!(out, "  {event_hubs}")?;
        writeln!(out, "Rust (azure_messaging_eventhubs): the same, and")?;
        writeln!(out, "  .with_custom_endpoint(\"amqp://{amqp}\")")?;
        writeln!(out, "Checkpoints (all languages):")?;
        writeln!(out, "  {storage}")?;
        for (name, address) in optional_ports(emulator) {
            writeln!(out, "{name}: {address}")?;
        }
    }
    out.flush()
}

/// Ports that are served only if they were asked for.
fn optional_ports(emulator: &Emulator) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let ports = [
        ("tls_port", emulator.tls_addr()),
        ("ws_port", emulator.ws_addr()),
        ("wss_port", emulator.wss_addr()),
        ("control_port", emulator.control_addr()),
    ];
    ports
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
}

#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a way to be told, it serves until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
