//! The program: what it prints, and how it stops.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod raw;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_eventhubs-emulator"))
        .args(["--port", "0", "--blob-port", "0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn port(ready: &serde_json::Value, name: &str) -> u16 {
    ready[name].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn one_line_of_json_tells_how_to_connect_and_a_signal_ends_it() {
    let mut child = start(&["--ready-json", "--hub", "telemetry:2"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let amqp = port(&ready, "amqp_port");
    TcpStream::connect(("127.0.0.1", amqp)).unwrap();
    TcpStream::connect(("127.0.0.1", port(&ready, "blob_port"))).unwrap();
    let event_hubs = ready["eventhubs_connection_string"].as_str().unwrap();
    assert!(event_hubs.starts_with(&format!("Endpoint=sb://localhost:{amqp};")));
    assert!(event_hubs.contains("UseDevelopmentEmulator=true"));
    assert_eq!(ready.as_object().unwrap().len(), 4, "{line}");

    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn an_interrupt_closes_connections_as_the_service_does() {
    let mut child = start(&["--ready-json", "--hub", "telemetry:1"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = ([127, 0, 0, 1], port(&ready, "amqp_port")).into();
    let mut client = raw::Raw::connect(address).unwrap();
    let source = "telemetry/ConsumerGroups/$Default/Partitions/0";
    client.attach_receiver(0, source).unwrap();
    client.grant(0, 1).unwrap();
    let id = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &id]).status();
    assert!(kill.unwrap().success());
    let (code, said) = loop {
        let (code, frame) = client.next().unwrap();
        if code != raw::FLOW {
            break (code, String::from_utf8_lossy(frame).into_owned());
        }
    };
    assert_eq!(code, raw::CLOSE);
    assert!(said.contains("amqp:connection:forced"), "{said}");
    // The answer is waited for, so nobody is cut off.
    client.send(&raw::close()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[cfg(feature = "watch")]
#[test]
fn there_is_nothing_to_watch_without_a_terminal() {
    let mut child = start(&["--watch"]);
    assert!(!child.wait().unwrap().success());
    let mut stderr = String::new();
    let mut pipe = child.stderr.take().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("needs a terminal"), "{stderr}");
}

#[test]
fn ports_that_were_asked_for_are_told_and_the_authority_is_written() {
    let file = std::env::temp_dir().join(format!("ca-{}.pem", std::process::id()));
    let path = file.to_str().unwrap();
    let mut child = start(&[
        "--ready-json",
        "--tls-port=0",
        "--ws-port=0",
        "--wss-port=0",
        "--control-port=0",
        "--print-ca",
        path,
    ]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    for name in ["tls_port", "ws_port", "wss_port", "control_port"] {
        TcpStream::connect(("127.0.0.1", port(&ready, name))).unwrap();
    }
    assert_eq!(ready["ca_file"], path);
    let pem = std::fs::read_to_string(&file).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_address_for_all_needs_permission() {
    let mut child = start(&["--host", "0.0.0.0"]);
    assert!(!child.wait().unwrap().success());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert!(stderr.contains("reached from other machines"), "{stderr}");
}

#[test]
fn a_hub_that_cannot_be_is_told() {
    for hub in ["name", "name:x", "name:0", "a/b:1"] {
        let mut child = start(&["--hub", hub]);
        assert!(!child.wait().unwrap().success(), "{hub}");
    }
}

#[test]
fn flags_that_cannot_be_are_told() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("Config.json");
    std::fs::write(&config, "{\"UserConfig\": {\"NamespaceConfig\": 1}}").unwrap();
    let config = config.to_str().unwrap();
    for (arguments, expected) in [
        (&["--config", config][..], "UserConfig.NamespaceConfig"),
        (&["--data", "/dev/null/x"], "/dev/null/x"),
        (&["--retention-age", "1y"], "s, m, h or d"),
        (&["--fsync"], "--data"),
    ] {
        let mut child = start(arguments);
        assert!(!child.wait().unwrap().success(), "{arguments:?}");
        let mut stderr = String::new();
        let mut pipe = child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        assert!(stderr.contains(expected), "{stderr}");
    }
}
