//! `examples/consume`, a process of its own, on each way with each kind of credential; and how it ends where there is
//! no way.

use std::path::PathBuf;
use std::process::{Output, Stdio};
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

use crate::support::tinyproxy::{Rules, Tinyproxy};
use crate::support::tls_front::{Authority, TlsFront};

const KEY: &str = "canary-key-of-the-hub";
const TOKEN: &str = "canary-token-of-the-reader";
const BODY: &str = "canary-body-of-the-event";
/// Long enough for a program on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const LOCKED: Rules = Rules {
    credentials: Some(("canary-user", "canary-password")),
    only_port: None,
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
        let mut builder = Emulator::builder().with_tls_port(0).with_wss_port(0);
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
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "NO_PROXY",
            "no_proxy",
        ] {
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

/// Runs it until it has printed the event. What it logged, at every level of every crate.
pub(super) async fn until_the_event(mut command: Command) -> String {
    let mut child = command.env("RUST_LOG", "trace").spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = tokio::spawn(async move {
        let mut log = Vec::new();
        stderr.read_to_end(&mut log).await.unwrap();
        String::from_utf8_lossy(&log).into_owned()
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            let has_event = line.contains(BODY);
            seen.push(line);
            if has_event {
                return Ok(());
            }
        }
        Err(seen)
    };
    let read = timeout(PATIENCE, reading).await;
    child.kill().await.unwrap();
    let log = log.await.unwrap();
    match read {
        Ok(Ok(())) => log,
        other => panic!(
            "{other:?}: {}",
            log.lines().rev().take(30).collect::<String>()
        ),
    }
}

/// Runs it to its end, which is a failure, and returns the one line about it.
async fn failure(mut command: Command) -> String {
    let Output { status, stderr, .. } = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{stderr}");
    let errors: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    let [error] = errors[..] else {
        panic!("{stderr}");
    };
    error.to_owned()
}

#[tokio::test]
async fn consume_takes_every_way_with_every_credential_and_logs_no_secret() {
    let proxies = [
        Tinyproxy::start(Rules::default()).await,
        Tinyproxy::start(LOCKED).await,
    ];
    let [open, locked] = proxies.each_ref().map(|proxy| {
        proxy.as_ref().map(|proxy| match proxy.rules.credentials {
            None => proxy.address(),
            Some((user, password)) => format!("http://{user}:{password}@127.0.0.1:{}", proxy.port),
        })
    });
    // Skipped, with a line about it, where there is no proxy.
    let ways: Vec<_> = [Some("none".to_owned()), open, locked]
        .into_iter()
        .flatten()
        .collect();
    let worlds = [
        World::new(4 * ways.len(), true).await,
        World::new(2 * ways.len(), false).await,
    ];
    let mut used = [0, 0];
    for proxy in &ways {
        for credential in [
            Credential::Key(KEY),
            Credential::Signature(3600),
            Credential::Token,
        ] {
            let which = usize::from(matches!(credential, Credential::Token));
            let world = &worlds[which];
            for (transport, port) in [("tcp", world.tcp()), ("websockets", world.web())] {
                let mut command = world.consume(used[which], port, &credential);
                used[which] += 1;
                command.env("TRANSPORT_TYPE", transport).env("PROXY", proxy);
                let log = until_the_event(command).await;
                // There is a log, down to the bottom, and of what should be in none there is nothing.
                assert!(log.contains("TRACE"), "{log}");
                for canary in ["canary", "sig=", "SharedKey "] {
                    let found = log.lines().find(|line| line.contains(canary));
                    assert_eq!(found, None, "{canary}, {credential:?}");
                }
            }
        }
    }
    for proxy in proxies.iter().flatten() {
        let connects = proxy
            .requests()
            .iter()
            .filter(|asked| asked.starts_with("CONNECT"))
            .count();
        assert_eq!(connects, 6, "one connection for each run");
    }
}

#[tokio::test]
async fn where_there_is_no_trust_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let authority = Authority::new();
    let ca = world.ca.with_extension("other.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let upstream = world.emulator.amqp_addr();
    let other = TlsFront::start(upstream, &authority, "other.invalid", None).await;
    let right = TlsFront::start(upstream, &authority, "localhost", None).await;
    for (front, ca, told) in [
        (&right, &world.ca, "authority that is not trusted"),
        (&other, &ca, "not for localhost but for"),
    ] {
        let mut command = world.consume(0, front.port, &Credential::Key(KEY));
        command.env("CA_CERTIFICATES", ca).env("PROXY", "none");
        let error = failure(command).await;
        assert!(error.contains(told), "{error}");
        assert_eq!(front.accepted(), 1, "{error}");
    }
    std::fs::remove_file(ca).unwrap();
}

#[tokio::test]
async fn where_a_proxy_says_no_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let closed = Rules {
        only_port: Some(1),
        ..Rules::default()
    };
    for (rules, told) in [(LOCKED, "wants credentials"), (closed, "does not allow it")] {
        let Some(proxy) = Tinyproxy::start(rules).await else {
            return;
        };
        for (transport, port) in [("tcp", world.tcp()), ("websockets", world.web())] {
            let mut command = world.consume(0, port, &Credential::Key(KEY));
            command
                .env("TRANSPORT_TYPE", transport)
                .env("PROXY", proxy.address());
            let before = proxy.requests().len();
            let error = failure(command).await;
            let address = format!("the proxy 127.0.0.1:{} {told}", proxy.port);
            assert!(error.contains(&address), "{error}");
            assert_eq!(proxy.requests().len() - before, 1, "{error}");
        }
    }
}

#[tokio::test]
async fn a_wrong_key_and_an_expired_signature_are_told_on_every_transport() {
    let world = World::new(1, true).await;
    for (transport, port) in [("tcp", world.tcp()), ("websockets", world.web())] {
        for (credential, told) in [
            (Credential::Key("canary-wrong"), "invalid signature"),
            (Credential::Signature(-60), "expired"),
        ] {
            let mut command = world.consume(0, port, &credential);
            command
                .env("TRANSPORT_TYPE", transport)
                .env("PROXY", "none");
            let started = Instant::now();
            let error = failure(command).await;
            assert!(error.contains("refused the credentials"), "{error}");
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("canary"), "{error}");
            assert!(started.elapsed() < PATIENCE);
        }
    }
}
