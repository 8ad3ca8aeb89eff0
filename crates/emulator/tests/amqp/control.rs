//! The control port, over HTTP.

use eventhubs_emulator::Emulator;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Client, Reading, receive, text};

pub(crate) struct Control {
    http: reqwest::Client,
    url: String,
}

impl Control {
    pub(crate) fn of(emulator: &Emulator) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: format!("http://{}", emulator.control_addr().unwrap()),
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        answer(request.body(body.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, _) = answer(self.http.delete(format!("{}{path}", self.url))).await;
        assert_eq!(status, 200);
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = answer(self.http.get(format!("{}{path}", self.url))).await;
        assert_eq!(status, 200);
        value
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap())
}

async fn emulator() -> Emulator {
    Emulator::builder()
        .with_hub("hub", 2)
        .with_control_port(0)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn faults_are_ordered_listed_counted_and_taken_back() {
    let emulator = emulator().await;
    let control = Control::of(&emulator);
    let order = json!({"fault": "refuse_attaches", "hub": "hub", "partition": "0",
                       "condition": "com.microsoft:server-busy", "times": 2});
    assert_eq!(control.post("/faults", &order).await.0, 200);
    let mut client = Client::connect(&emulator).await;
    let error = client.refusal("0", Reading::default()).await;
    assert!(error.contains("server-busy"), "{error}");
    let faults = control.get("/faults").await;
    assert_eq!(faults["event_hubs"]["active"][0]["left"], 1);
    assert_eq!(faults["event_hubs"]["counts"]["refuse_attaches"], 1);

    let order = json!({"fault": "fail", "status": 503, "code": "ServerBusy", "times": 3,
                       "operation": "set_blob_metadata", "name_contains": "ownership"});
    assert_eq!(control.post("/faults/blob", &order).await.0, 200);
    let faults = control.get("/faults").await;
    assert_eq!(
        faults["blob"]["active"][0]["operation"],
        "set_blob_metadata"
    );
    let url = format!("{}/faults", control.url);
    assert_eq!(answer(control.http.delete(url)).await.0, 200);
    let faults = control.get("/faults").await;
    assert_eq!(faults["event_hubs"]["active"], json!([]));
    assert_eq!(faults["blob"]["active"], json!([]));
    client.receiver("0", Reading::default()).await;
}

#[tokio::test]
async fn state_is_told() {
    let emulator = emulator().await;
    let control = Control::of(&emulator);
    emulator.send("hub", Some("1"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    let mut receiver = client.receiver("1", Reading::default()).await;
    assert_eq!(text(&receive(&mut receiver).await), "x");
    let status = control.get("/status").await;
    assert_eq!(status["connections"], 1);
    let hub = &status["hubs"][0];
    assert_eq!(hub["name"], "hub");
    assert_eq!(hub["partitions"][0]["receivers"], 0);
    assert_eq!(hub["partitions"][1]["receivers"], 1);
    assert_eq!(hub["partitions"][1]["last_enqueued_sequence_number"], 0);
    let reader = &hub["partitions"][1]["readers"][0];
    assert_eq!(reader["consumer_group"], "$default");
    assert_eq!(reader["connection"], status["open_connections"][0]["id"]);
    assert_eq!(
        (&reader["delivered"], &reader["next_sequence_number"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status["open_connections"][0]["container_id"], "test");
}

#[tokio::test]
async fn bad_orders_are_refused_with_a_reason() {
    let emulator = emulator().await;
    let control = Control::of(&emulator);
    for (order, reason) in [
        (json!({"fault": "x"}), "unknown variant"),
        (
            json!({"fault": "drop_connections", "x": 1}),
            "unknown field",
        ),
        (json!({"fault": "over_send", "hub": "hub"}), "missing field"),
        (
            json!({"fault": "skip_deliveries", "hub": "hub", "chance": 2}),
            "not from 0 to 1",
        ),
        (
            json!({"fault": "reset_at", "stage": "attach", "partition": "0"}),
            "without its hub",
        ),
        (
            json!({"fault": "drop_connections", "partition": "0"}),
            "without its hub",
        ),
        (json!({"fault": "fail_over"}), "not geo-replicated"),
        (
            json!({"fault": "recreate_hub", "hub": "nohub"}),
            "no event hub",
        ),
        (
            json!({"fault": "refuse_upgrades", "status": 200}),
            "refuses nothing",
        ),
        (
            json!({"fault": "close_web_sockets", "reason": "x".repeat(124)}),
            "123 bytes",
        ),
        (
            json!({"fault": "disturb_tls", "how": "x"}),
            "unknown variant",
        ),
        (
            json!({"fault": "withhold_credit", "on": "yes"}),
            "invalid type",
        ),
        (json!({"hub": "hub"}), "missing field `fault`"),
    ] {
        let (status, answer) = control.post("/faults", &order).await;
        assert_eq!(status, 400, "{order}");
        let text = answer["error"].as_str().unwrap();
        assert!(text.contains(reason), "{text}");
    }
    let url = format!("{}/faults", control.url);
    let plain = control.http.post(&url).body("{}");
    assert_eq!(answer(plain).await.0, 400, "no content type");
    let page = control.http.get(&url).header("origin", "http://evil");
    assert_eq!(answer(page).await.0, 403);
    assert_eq!(answer(control.http.put(&url)).await.0, 405);
    let large = json!({"fault": "x".repeat(300_000)});
    assert_eq!(control.post("/faults", &large).await.0, 413);
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let emulator = emulator().await;
    let address = emulator.control_addr().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff; 20_000]).await.ok();
    let mut end = Vec::new();
    stream.read_to_end(&mut end).await.ok();
    Control::of(&emulator).get("/status").await;
}
