//! Who we are, to an emulator that checks it: keys that are replaced, signatures and tokens that end.

#[cfg(feature = "azure-identity")]
mod identity;
mod keys;
mod load;
mod processor;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::credential::{AccessToken, EventHubsCredential, Secret, TokenCredential};
use eventhubs_processor::error::{BoxError, TransportError, TransportErrorKind as Kind};
use eventhubs_processor::transport::{
    AmqpOptions, AmqpTransport, PartitionReceiver, ReceiverOptions, Transport as _,
};
use eventhubs_processor::{EventPosition, ReceivedEvent};
use hmac::{Hmac, KeyInit as _, Mac as _};
use tokio::time::{Instant, timeout};

const HUB: &str = "hub";
const POLICY: &str = "listen";
const KEY: &str = "the-canary-key";

async fn emulator() -> Emulator {
    let emulator = Emulator::builder()
        .with_hub(HUB, 4)
        .with_sas_key(POLICY, KEY)
        .with_container("checkpoints")
        .start();
    emulator.await.unwrap()
}

/// A client that proves itself with `credential`. The public way to that needs TLS, so this one is made of the parts of
/// a connection string whose key is never used.
fn client(emulator: &Emulator, credential: EventHubsCredential) -> AmqpTransport {
    let text = emulator.event_hubs_connection_string();
    let options = AmqpOptions::default().with_operation_timeout(Duration::from_secs(10));
    AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options)
        .unwrap()
        .with_credential(credential)
}

async fn open(
    client: &AmqpTransport,
    partition: &str,
) -> Result<Box<dyn PartitionReceiver>, TransportError> {
    let mut options = ReceiverOptions::new("$Default", partition.into(), EventPosition::Earliest);
    options.owner_level = Some(0);
    timeout(Duration::from_secs(15), client.open_receiver(options))
        .await
        .unwrap()
}

async fn receive(receiver: &mut Box<dyn PartitionReceiver>) -> Vec<ReceivedEvent> {
    timeout(Duration::from_secs(10), receiver.receive(100))
        .await
        .unwrap()
        .unwrap()
}

fn send(emulator: &Emulator, partition: &str) {
    emulator
        .send(HUB, Some(partition), Event::new("event"))
        .unwrap();
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..150 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within three seconds: {what}");
}

/// Signs as a service that hands out signatures would.
fn sign(resource: &str, key: &str, lifetime: Duration) -> Secret {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + lifetime;
    let end = end.as_secs();
    let escape =
        |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let resource = escape(resource);
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{resource}\n{end}").as_bytes());
    let signature = escape(&BASE64.encode(mac.finalize().into_bytes()));
    Secret::new(format!(
        "SharedAccessSignature sr={resource}&sig={signature}&se={end}&skn={POLICY}"
    ))
}

/// Hands out tokens of the emulator's issuer, and counts them.
#[derive(Debug)]
struct Issuer {
    emulator: Arc<Emulator>,
    lifetime: Duration,
    issued: AtomicUsize,
    /// From this one on the issuer is down.
    fails_from: AtomicUsize,
}

impl Issuer {
    fn new(emulator: &Arc<Emulator>, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self {
            emulator: Arc::clone(emulator),
            lifetime,
            issued: AtomicUsize::new(0),
            fails_from: AtomicUsize::new(usize::MAX),
        })
    }

    fn issued(&self) -> usize {
        self.issued.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl TokenCredential for Issuer {
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        if number >= self.fails_from.load(Ordering::SeqCst) {
            return Err("the issuer is down".into());
        }
        Ok(AccessToken {
            token: Secret::new(self.emulator.issue_token(scope, self.lifetime)),
            expires_at: SystemTime::now() + self.lifetime,
        })
    }
}
