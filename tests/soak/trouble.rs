//! What goes wrong around the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventhubs_emulator::{BlobFaults, Faults};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::HUB;
use crate::truth::PARTITIONS;

/// Orders one fault after the other until there is peace, and takes all back.
pub(crate) async fn run(amqp: Faults, blob: BlobFaults, mut rng: StdRng, peace: Arc<AtomicBool>) {
    while !peace.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(rng.random_range(100..2500))).await;
        let partition = rng.random_range(0..PARTITIONS).to_string();
        let one = Some(partition.as_str());
        match rng.random_range(0..14) {
            0 => amqp.detach_receivers(HUB, one, "amqp:link:detach-forced", "idle"),
            1 => amqp.detach_receivers(HUB, None, "com.microsoft:timeout", "busy"),
            2 => amqp.drop_connections(),
            3 => amqp.close_connections("amqp:connection:forced", "upgrade"),
            4 => amqp.end_sessions("amqp:internal-error", "oops"),
            5 => amqp.expire_tokens(HUB, None),
            // Not 401: whoever is refused at its start ends, on purpose.
            6 => amqp.answer_cbs(503, 1),
            7 => amqp.reset_after_bytes(rng.random_range(10..5000), 1),
            8 => {
                // A stall: the link stands, and nothing comes over it.
                amqp.on_partition(HUB, &partition).withhold_deliveries(true);
                sleep(Duration::from_millis(rng.random_range(500..8000))).await;
                amqp.clear();
            }
            9 => {
                amqp.delay(Duration::from_millis(rng.random_range(10..300)));
                sleep(Duration::from_secs(2)).await;
                amqp.clear();
            }
            10 => blob.fail_next(rng.random_range(1..6), 503, "ServerBusy", None),
            11 => blob.drop_reply_after_apply(rng.random_range(1..4)),
            12 => {
                blob.outage(true);
                sleep(Duration::from_millis(rng.random_range(500..8000))).await;
                blob.outage(false);
            }
            _ => amqp.duplicate_deliveries(HUB, one, 2),
        }
    }
    amqp.clear();
    blob.clear();
}
