//! Faults of every kind over the control port, none of them for long: Python tries a refused attach again for ever and
//! says nothing, and a client that gets nowhere proves nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::target::{OURS, THEIRS};

/// Faults come for so long, and then for as long none do.
const STORM: Duration = Duration::from_secs(12);
/// How long what is switched on stays on.
const ON: Duration = Duration::from_millis(1500);

/// Orders faults until there is peace; returns how many.
pub(crate) async fn run(control: SocketAddr, mut rng: SmallRng, peace: Arc<AtomicBool>) -> u64 {
    let client = reqwest::Client::new();
    let mut count = 0;
    let mut since = std::time::Instant::now();
    while !peace.load(Ordering::Relaxed) {
        if since.elapsed() > STORM {
            calm(&client, control, &peace).await;
            since = std::time::Instant::now();
        }
        let (path, order) = order(&mut rng);
        let is_switch = order.get("on").is_some() || order["fault"] == "delay";
        post(&client, control, path, &order).await;
        count += 1;
        if is_switch {
            sleep(ON).await;
            take_back(&client, control).await;
        }
        sleep(Duration::from_millis(rng.random_range(20..600))).await;
    }
    take_back(&client, control).await;
    count
}

async fn calm(client: &reqwest::Client, control: SocketAddr, peace: &AtomicBool) {
    take_back(client, control).await;
    let until = std::time::Instant::now() + STORM;
    while std::time::Instant::now() < until && !peace.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100)).await;
    }
}

/// The control port has a limit of connections that attackers may have used up.
async fn post(client: &reqwest::Client, control: SocketAddr, path: &str, order: &Value) {
    let body = order.to_string();
    for _ in 0..100 {
        let request = client
            .post(format!("http://{control}{path}"))
            .header("content-type", "application/json")
            .timeout(Duration::from_secs(5))
            .body(body.clone());
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                let text = answer.text().await.unwrap_or_default();
                assert!(status.is_success(), "{body}: {status} {text}");
                return;
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("the control port does not answer");
}

async fn take_back(client: &reqwest::Client, control: SocketAddr) {
    for _ in 0..100 {
        let request = client
            .delete(format!("http://{control}/faults"))
            .timeout(Duration::from_secs(5));
        if request
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the control port does not answer");
}

/// A fault, and the path it is ordered on. Those that lose events for good, or their order, meet only the hub of the
/// strangers.
fn order(rng: &mut SmallRng) -> (&'static str, Value) {
    let hub = *[OURS, THEIRS].choose(rng).unwrap();
    let times = rng.random_range(1..4);
    let stages = [
        "attach",
        "begin",
        "close",
        "detach",
        "disposition",
        "end",
        "flow",
        "header",
        "open",
        "sasl",
        "transfer",
    ];
    let conditions = [
        "amqp:link:stolen",
        "amqp:link:detach-forced",
        "amqp:internal-error",
        "com.microsoft:server-busy",
        "amqp:unauthorized-access",
        "amqp:resource-limit-exceeded",
        "com.example:unheard-of",
    ];
    let frames = [
        "size_too_small",
        "offset_too_small",
        "oversize",
        "unknown_type",
        "garbage",
    ];
    let stage = *stages.choose(rng).unwrap();
    let condition = *conditions.choose(rng).unwrap();
    let frame = *frames.choose(rng).unwrap();
    let how = match rng.random_range(0..4) {
        0 => json!({"how": "late", "delay_ms": 1500}),
        1 => json!({"how": "lost"}),
        2 => json!({"how": "status", "status": 500}),
        _ => json!({"how": "wrong_correlation"}),
    };
    let bytes = rng.random_range(0..2000);
    let event_hubs = [
        json!({"fault": "answer_cbs", "status": 401, "times": times}),
        json!({"fault": "close_connections", "condition": "amqp:connection:forced"}),
        json!({"fault": "delay", "delay_ms": 100}),
        json!({"fault": "detach_receivers", "hub": hub, "condition": condition}),
        json!({"fault": "detach_senders", "hub": hub, "condition": condition}),
        json!({"fault": "disturb_cbs", "how": how, "times": times}),
        json!({"fault": "disturb_management", "hub": hub, "how": how, "times": times}),
        json!({"fault": "drop_connections"}),
        json!({"fault": "duplicate_deliveries", "hub": hub, "times": times}),
        json!({"fault": "end_sessions", "condition": condition}),
        json!({"fault": "expire_tokens", "hub": hub}),
        json!({"fault": "freeze_connections", "on": true}),
        json!({"fault": "ignore_attaches", "on": true}),
        json!({"fault": "ignore_detaches", "hub": hub, "times": times}),
        json!({"fault": "lose_dispositions", "hub": hub, "times": times}),
        json!({"fault": "over_send", "hub": hub, "extra": 10, "times": times}),
        json!({"fault": "refuse_attaches", "hub": hub, "condition": condition, "times": times}),
        json!({"fault": "reject_messages", "hub": hub, "condition": condition, "times": times}),
        json!({"fault": "reorder_deliveries", "hub": THEIRS, "times": times}),
        json!({"fault": "reset_after_bytes", "bytes": bytes, "times": times}),
        json!({"fault": "reset_after_store", "hub": hub, "times": times}),
        json!({"fault": "reset_at", "stage": stage, "times": times}),
        json!({"fault": "reset_at", "stage": stage, "times": 50, "chance": 0.1}),
        json!({"fault": "send_bad_frame", "frame": frame}),
        json!({"fault": "show_fewer_partitions", "hub": hub, "partitions": 1, "times": times}),
        json!({"fault": "skip_deliveries", "hub": THEIRS, "times": times}),
        json!({"fault": "withhold_credit", "on": true}),
    ];
    let blob = [
        json!({"fault": "delay", "delay_ms": 300}),
        json!({"fault": "drop_reply_after_apply", "times": times}),
        json!({"fault": "drop_request", "times": times}),
        json!({"fault": "edit_header", "name": "etag", "value": null, "times": times}),
        json!({"fault": "fail", "status": 503, "code": "ServerBusy", "times": times}),
        json!({"fault": "fail", "status": 500, "code": "InternalError", "times": times}),
        json!({"fault": "freeze", "on": true}),
        json!({"fault": "hang_body", "times": 1}),
        json!({"fault": "outage", "on": true}),
        json!({"fault": "replace_body", "body": "<xml", "times": times, "operation": "list_blobs"}),
        json!({"fault": "stale_listings", "on": true}),
        json!({"fault": "truncate_body", "times": times}),
    ];
    if rng.random_bool(0.7) {
        ("/faults", event_hubs.choose(rng).unwrap().clone())
    } else {
        ("/faults/blob", blob.choose(rng).unwrap().clone())
    }
}
