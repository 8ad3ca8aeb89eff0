//! `examples/consume`, a process of its own, on each way with each kind of credential; and how it ends where there is
//! no way.

#[cfg(target_os = "linux")]
mod blocked;
mod refusals;
mod unreached;
mod ways;

#[cfg(all(feature = "azure-identity", target_os = "linux"))]
pub(super) use ways::until_the_event;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use eventhubs_emulator::{Emulator, Event};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::PROXY_VARIABLES;
use crate::support::tinyproxy::Rules;

const KEY: &str = "canary-key-of-the-hub";
const TOKEN: &str = "canary-token-of-the-reader";
const BODY: &str = "canary-body-of-the-event";
/// Long enough for a program on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const LOCKED: Rules = Rules {
    credentials: Some(("canary-user", "canary-password")),
    only_port: None,
    forbids_all: false,
};

/// What the programs are told and what they reach. The files are gone with it.
pub(super) struct World {
    pub(super) emulator: Arc<Emulator>,
    ca: PathBuf,
    token: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        for file in [&self.ca, &self.token] {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Who the programs say they are.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    Key(&'static str),
    /// A signature for an event hub that ends so many seconds from now.
    Signature(i64),
    Token,
    /// One of azure_identity, as `AZURE_CREDENTIAL` and others say.
    #[cfg(all(feature = "azure-identity", target_os = "linux"))]
    Identity,
}

impl World {
    /// With so many event hubs, named by their number, since each run wants one of its own. It checks signatures, and then
    /// takes no tokens; or it takes everything.
    pub(super) async fn new(hubs: usize, is_checking: bool) -> Self {
        let mut builder = Emulator::builder()
            .with_tls_port(0)
            .with_ws_port(0)
            .with_wss_port(0);
        if is_checking {
            builder = builder.with_sas_key("listen", KEY);
        }
        for hub in 0..hubs {
            builder = builder
                .with_hub(hub.to_string(), 1)
                .with_container(format!("container-{hub}"));
        }
        let emulator = Arc::new(builder.start().await.unwrap());
        for hub in 0..hubs {
            let hub = hub.to_string();
            emulator.send(&hub, Some("0"), Event::new(BODY)).unwrap();
        }
        let port = emulator.amqp_addr().port();
        let ca = format!("ehp-consume-{}-{port}.pem", std::process::id());
        let ca = std::env::temp_dir().join(ca);
        std::fs::write(&ca, emulator.ca_certificate_pem().unwrap()).unwrap();
        let token = ca.with_extension("token");
        std::fs::write(&token, TOKEN).unwrap();
        Self {
            emulator,
            ca,
            token,
        }
    }

    pub(super) fn tcp(&self) -> u16 {
        self.emulator.tls_addr().unwrap().port()
    }

    fn web(&self) -> u16 {
        self.emulator.wss_addr().unwrap().port()
    }

    /// The program, about to read an event hub at a port of this machine, with TLS.
    pub(super) fn consume(&self, hub: usize, port: u16, credential: &Credential) -> Command {
        let mut command = Command::new(program());
        for name in PROXY_VARIABLES {
            command.env_remove(name);
        }
        let secret = match credential {
            Credential::Token => {
                command.env("ACCESS_TOKEN_FILE", &self.token);
                None
            }
            #[cfg(all(feature = "azure-identity", target_os = "linux"))]
            Credential::Identity => None,
            Credential::Key(key) => {
                Some(format!("SharedAccessKeyName=listen;SharedAccessKey={key}"))
            }
            Credential::Signature(life) => Some(signature(hub, *life)),
        };
        match secret {
            None => command.env("EVENTHUBS_NAMESPACE", format!("localhost:{port}")),
            Some(secret) => command.env(
                "EVENTHUBS_CONNECTION_STRING",
                format!("Endpoint=sb://localhost:{port};{secret}"),
            ),
        };
        command
            .env("EVENTHUB_NAME", hub.to_string())
            .env(
                "STORAGE_CONNECTION_STRING",
                self.emulator.storage_connection_string(),
            )
            .env("CHECKPOINT_CONTAINER", format!("container-{hub}"))
            .env("LOAD_BALANCING_INTERVAL_MS", "200")
            .env("CA_CERTIFICATES", &self.ca)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples/consume");
    assert!(
        path.exists(),
        "{} is missing: cargo build --all-features --example consume",
        path.display()
    );
    path
}

/// A signature, as whoever has the key hands it out.
fn signature(hub: usize, life: i64) -> String {
    let resource = format!("sb://localhost/{hub}");
    let resource = utf8_percent_encode(&resource, NON_ALPHANUMERIC).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expiry = i64::try_from(now.as_secs()).unwrap() + life;
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
    format!(
        "SharedAccessSignature=SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=listen"
    )
}

/// What it says of trouble that it survives, of the first so many times, and when. Then it is killed.
async fn troubles(mut command: Command, count: usize) -> Vec<(Duration, String)> {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut troubles = Vec::new();
    while troubles.len() < count {
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("it says something").unwrap();
        let line: serde_json::Value = serde_json::from_str(&line.expect("it goes on")).unwrap();
        // Each time once, and nothing else.
        assert_eq!(line["lifecycle"], "error", "{line}");
        assert!(line["partition"].is_null(), "{line}");
        let reason = line["reason"].as_str().unwrap().to_owned();
        assert!(!reason.contains("canary"), "{reason}");
        troubles.push((started.elapsed(), reason));
    }
    child.kill().await.unwrap();
    let mut stderr = String::new();
    let mut log = child.stderr.take().unwrap();
    log.read_to_string(&mut stderr).await.unwrap();
    assert_eq!(stderr, "");
    troubles
}
