//! The scripted consumer as an operator meets it: signals, exit codes, and what it says when it is misconfigured.

use std::time::Duration;

use crate::program::Command;
use crate::setup::{Group, PARTITIONS, START, Tools, emulator, within};
use crate::timeline::{event, terms};

const SECRET: &str = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYXBwZWFyLWFueXdoZXJl";

#[tokio::test(flavor = "multi_thread")]
async fn sigint_and_sigterm_end_it_politely() {
    let Some(tools) = Tools::from_env("sigint_and_sigterm_end_it_politely") else {
        return;
    };
    within(Duration::from_secs(240), stop_by_signal(tools)).await;
}

async fn stop_by_signal(tools: Tools) {
    let emulator = emulator(|builder| builder).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    for signal in ["INT", "TERM"] {
        for partition in PARTITIONS {
            emulator
                .send(crate::setup::HUB, Some(partition), signal)
                .unwrap();
        }
        let mut consumer = group.consumer().spawn();
        consumer
            .wait_for("an event of each partition", START, |lines| {
                let is_read = |partition| lines.iter().any(|line| event(line, partition).is_some());
                PARTITIONS.into_iter().all(is_read).then_some(())
            })
            .await;
        consumer.signal(signal).await;
        consumer.exited(START).await;
        consumer.succeeded();
        for partition in PARTITIONS {
            let terms = terms(&consumer.lines(), partition);
            assert_eq!(terms.len(), 1, "{consumer:?}");
            assert_eq!(terms[0].closed.as_deref(), Some("Shutdown"), "{consumer:?}");
            // Nothing that the signal before had made it checkpoint.
            assert_eq!(
                terms[0].events.unwrap().0,
                if signal == "INT" { 0 } else { 1 }
            );
        }
        assert_eq!(
            group.owners().await.get(""),
            Some(&PARTITIONS.len()),
            "given back: {consumer:?}"
        );
    }
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn misconfiguration_ends_it_with_a_reason_and_without_the_secret() {
    let test = "misconfiguration_ends_it_with_a_reason_and_without_the_secret";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    within(Duration::from_secs(240), misconfigure(tools)).await;
}

async fn misconfigure(tools: Tools) {
    let emulator =
        emulator(|builder| builder.with_sas_key("RootManageSharedAccessKey", SECRET)).await;
    let good = emulator.event_hubs_connection_string();
    let group = Group::new(tools, &good).await;
    let wrong_key = SECRET.replace("c2Vj", "d3Jv");
    let cases: [(&str, &str, String, &[&str]); 7] = [
        (
            "wrong key",
            "EVENTHUBS_CONNECTION_STRING",
            good.replace(SECRET, &wrong_key),
            &["unauthorized"],
        ),
        (
            "unknown hub",
            "EVENTHUB_NAME",
            "no-such-hub".to_owned(),
            &["no-such-hub"],
        ),
        (
            "missing container",
            "CHECKPOINT_CONTAINER",
            "no-such-container".to_owned(),
            &["ontainer"],
        ),
        (
            "impossible container",
            "CHECKPOINT_CONTAINER",
            "No Container!".to_owned(),
            &["ontainer"],
        ),
        (
            "malformed hub",
            "EVENTHUBS_CONNECTION_STRING",
            format!("SharedAccessKey={SECRET}"),
            &["ndpoint"],
        ),
        (
            "malformed storage",
            "STORAGE_CONNECTION_STRING",
            format!("AccountKey={SECRET}"),
            &["ccount"],
        ),
        (
            "no number",
            "CHECKPOINT_EVERY",
            "often".to_owned(),
            &["CHECKPOINT_EVERY"],
        ),
    ];
    for (case, variable, value, expected) in cases {
        let mut consumer = group.consumer().named(case).env(variable, &value).spawn();
        let status = consumer.exited(START).await;
        assert!(status.code().is_some_and(|code| code != 0), "{consumer:?}");
        let said = consumer.stderr();
        for part in expected {
            let has_it = said
                .to_ascii_lowercase()
                .contains(&part.to_ascii_lowercase());
            assert!(has_it, "{part} is not in what it said: {consumer:?}");
        }
        assert_says_no_secret(&said, &[SECRET, &wrong_key]);
    }
    emulator.stop().await;
}

/// Neither a secret nor a good part of one.
fn assert_says_no_secret(said: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!said.contains(&secret[..12]), "a secret: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_said_without_secrets_at_trace_level() {
    let Some(tools) = Tools::from_env("everything_is_said_without_secrets_at_trace_level") else {
        return;
    };
    within(Duration::from_secs(240), trace(tools)).await;
}

async fn trace(tools: Tools) {
    let emulator =
        emulator(|builder| builder.with_sas_key("RootManageSharedAccessKey", SECRET)).await;
    let group = Group::new(tools, &emulator.event_hubs_connection_string()).await;
    emulator
        .send(crate::setup::HUB, Some("0"), "event")
        .unwrap();
    let tracing = |command: Command| command.env("RUST_LOG", "trace");
    let mut consumer = tracing(group.consumer()).spawn();
    consumer
        .wait_for("the event", START, |lines| {
            lines.iter().find_map(|line| event(line, "0")).map(|_| ())
        })
        .await;
    consumer.terminate(START).await;
    let said = consumer.stderr();
    assert!(!said.is_empty());
    // The key of every Azurite, as in `scripts/check.sh`.
    assert_says_no_secret(
        &said,
        &[
            SECRET,
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq",
        ],
    );
    emulator.stop().await;
}
