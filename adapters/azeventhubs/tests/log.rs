//! No key and no body is logged by any crate underneath, at its finest. A program of its own, because it listens to the
//! whole process.
#![allow(
    clippy::expect_used,
    clippy::future_not_send,
    clippy::unwrap_used,
    reason = "tests"
)]

#[path = "it/world.rs"]
#[allow(dead_code, reason = "for the other tests")]
mod world;

use std::sync::{Arc, Mutex};

use eventhubs_emulator::Event;
use eventhubs_processor::{EventPosition, Transport as _};
use tracing_subscriber::filter::LevelFilter;

use world::{Factory, HUB, KEY, at, emulator, error_of, in_time, receive};

const BODY: &str = "canary-in-the-body";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_logged_or_told() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let emulator = emulator(1).await;
    emulator.send(HUB, Some("0"), Event::new(BODY)).unwrap();
    let mut told = String::new();
    for key in [KEY, "canary-key-that-is-wrong"] {
        let mut factory = Factory::new(&emulator);
        factory.key = key;
        let adapter = factory.connect().await.unwrap();
        told += &format!("{adapter:?}");
        let options = at("0", EventPosition::Earliest);
        match adapter.open_receiver(options).await {
            Ok(mut receiver) => {
                told += &format!("{:?} {receiver:?}", receive(&mut receiver, 1).await);
                emulator.faults().drop_connections();
                told += &format!("{:?}", error_of(&mut receiver).await);
            }
            Err(error) => told += &format!("{error:?} {error}"),
        }
        in_time(adapter.close()).await;
    }
    told += &String::from_utf8_lossy(&log.0.lock().unwrap());
    // Of azeventhubs, at DEBUG.
    assert!(told.contains("Requesting CBS authorization"));
    // The bytes of a body, and what a token begins with, as `Debug` shows them.
    let bytes = |text: &str| format!("{:?}", text.as_bytes()).replace(['[', ']'], "");
    for secret in [KEY, "canary-key", BODY, "SharedAccessSignature sr="] {
        for form in [secret.to_owned(), bytes(secret)] {
            assert!(!told.contains(&form), "{secret} shows");
        }
    }
}
