//! An emulator behind TLS, and transports to it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use azeventhubs::{EventHubConnection, EventHubConnectionOptions};
use eventhubs_emulator::{Emulator, EmulatorBuilder, Event};
use eventhubs_processor::transport::{PartitionReceiver, ReceiverOptions};
use eventhubs_processor::{EventPosition, PartitionId, ReceivedEvent, TransportError};
use eventhubs_processor_azeventhubs::AzEventHubsTransport;
use url::Url;

pub(crate) const HUB: &str = "hub";
pub(crate) const KEY: &str = "key-of-the-adapter-tests";

/// The certificate of all emulators of this process, and its key. Trusted before anybody connects.
static IDENTITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let bundle = std::env::var("SSL_CERT_FILE")
        .expect("cargo sets SSL_CERT_FILE if it is run in the folder of the adapter");
    fs::create_dir_all(Path::new(&bundle).parent().unwrap()).unwrap();
    fs::write(&bundle, made.cert.pem()).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
});

pub(crate) fn builder(partitions: u32) -> EmulatorBuilder {
    let (certificate, key) = &*IDENTITY;
    Emulator::builder()
        .with_hub(HUB, partitions)
        .with_tls_port(0)
        .with_tls_identity(certificate, key)
        .with_sas_key("listen", KEY)
}

pub(crate) async fn emulator(partitions: u32) -> Emulator {
    builder(partitions).start().await.unwrap()
}

/// Makes connections to an emulator, and counts them.
#[derive(Clone)]
pub(crate) struct Factory {
    pub(crate) key: &'static str,
    address: Url,
    made: Arc<AtomicUsize>,
}

impl Factory {
    pub(crate) fn new(emulator: &Emulator) -> Self {
        let port = emulator.tls_addr().unwrap().port();
        Self {
            key: KEY,
            address: Url::parse(&format!("amqps://localhost:{port}")).unwrap(),
            made: Arc::default(),
        }
    }

    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    pub(crate) async fn connect(&self) -> Result<AzEventHubsTransport, TransportError> {
        let factory = self.clone();
        AzEventHubsTransport::connect(move || {
            factory.made.fetch_add(1, Ordering::Relaxed);
            let options = EventHubConnectionOptions {
                custom_endpoint_address: Some(factory.address.clone()),
                ..EventHubConnectionOptions::default()
            };
            EventHubConnection::new_from_connection_string(
                format!(
                    "Endpoint=sb://localhost;SharedAccessKeyName=listen;SharedAccessKey={}",
                    factory.key
                ),
                HUB.to_owned(),
                options,
            )
        })
        .await
    }
}

pub(crate) async fn transport(emulator: &Emulator) -> AzEventHubsTransport {
    Factory::new(emulator).connect().await.unwrap()
}

pub(crate) fn at(partition: &str, position: EventPosition) -> ReceiverOptions {
    let mut options = ReceiverOptions::new("$Default", PartitionId::from(partition), position);
    options.owner_level = Some(0);
    options
}

pub(crate) fn send(emulator: &Emulator, partitions: u32, events: usize) {
    for number in 0..events {
        for partition in 0..partitions {
            let event = Event::new(format!("{partition}/{number}"));
            emulator
                .send(HUB, Some(&partition.to_string()), event)
                .unwrap();
        }
    }
}

/// Fails after half a minute.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("not within 30 s")
}

pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) async fn receive(
    receiver: &mut Box<dyn PartitionReceiver>,
    count: usize,
) -> Vec<ReceivedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = in_time(receiver.receive(count - events.len())).await;
        events.extend(batch.unwrap());
    }
    events
}

pub(crate) fn numbers(events: &[ReceivedEvent]) -> Vec<i64> {
    events.iter().map(ReceivedEvent::sequence_number).collect()
}

/// The error that comes behind the events that are still there.
pub(crate) async fn error_of(receiver: &mut Box<dyn PartitionReceiver>) -> TransportError {
    in_time(async {
        loop {
            if let Err(error) = receiver.receive(100).await {
                return error;
            }
        }
    })
    .await
}
