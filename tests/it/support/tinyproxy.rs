//! A real HTTP proxy, as a program of its own.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How it is set up besides the port it listens on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// User name and password that it asks for.
    pub(crate) credentials: Option<(&'static str, &'static str)>,
    /// The one port that it lets connections through to (`CONNECT`), in place of all.
    pub(crate) only_port: Option<u16>,
    /// Whether it allows no destination at all.
    pub(crate) forbids_all: bool,
}

/// Tinyproxy on a port of this machine. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Tinyproxy {
    child: Child,
    directory: PathBuf,
    pub(crate) port: u16,
    pub(crate) rules: Rules,
}

impl Tinyproxy {
    /// `None`, with a line that is seen, where there is no such program; in continuous integration there must be.
    pub(crate) async fn start(rules: Rules) -> Option<Self> {
        let program = std::env::var("EHP_TINYPROXY").unwrap_or_else(|_| "tinyproxy".to_owned());
        let port = free_port();
        let directory =
            std::env::temp_dir().join(format!("ehp-proxy-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut config = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Connect\nLogFile \"{}\"\n",
            directory.join("log").display()
        );
        if let Some((user, password)) = rules.credentials {
            config += &format!("BasicAuth {user} {password}\n");
        }
        if let Some(only) = rules.only_port {
            config += &format!("ConnectPort {only}\n");
        }
        if rules.forbids_all {
            let filter = directory.join("filter");
            fs::write(&filter, "").unwrap();
            config += &format!("Filter \"{}\"\nFilterDefaultDeny Yes\n", filter.display());
        }
        fs::write(directory.join("conf"), config).unwrap();
        let child = Command::new(&program)
            .arg("-d")
            .arg("-c")
            .arg(directory.join("conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if std::env::var_os("CI").is_none() => {
                // The harness swallows `eprintln!`.
                let line = format!("    SKIPPED: no {program}: {error}\n");
                std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
                return None;
            }
            Err(error) => panic!("no {program}, which continuous integration must have: {error}"),
        };
        let proxy = Self {
            child,
            directory,
            port,
            rules,
        };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(started.elapsed() < Duration::from_secs(20), "{proxy:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(proxy)
    }

    /// The address, without credentials.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was asked for so far, a line each, such as `CONNECT localhost:5671 HTTP/1.1`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let request = |line: &str| {
            let (_, rest) = line.split_once("Request (file descriptor ")?;
            Some(rest.split_once("): ")?.1.to_owned())
        };
        log.lines().filter_map(request).collect()
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
