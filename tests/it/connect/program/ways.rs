//! It gets through, and says nothing that it should not.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{BODY, Credential, KEY, LOCKED, PATIENCE, World};
use crate::support::tinyproxy::{Rules, Tinyproxy};

/// Runs it until it has printed the event. What it logged, at every level of every crate.
pub(in crate::connect) async fn until_the_event(mut command: Command) -> String {
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
