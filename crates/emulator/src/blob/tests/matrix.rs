//! Every order of `docs/faults.md` about storage, over the control port.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::{BlobOperation, WELL_KNOWN_ACCOUNT};
use super::client::{Answer, Client};
use crate::Emulator;

const LIST: &str = include_str!("../../../docs/faults.md");
const LISTING: &str = "/con?restype=container&comp=list&include=metadata";
const BLOCK: (&str, &str) = ("x-ms-blob-type", "BlockBlob");
const OWNER: (&str, &str) = ("x-ms-meta-ownerid", "me");

struct Setup {
    emulator: Emulator,
    blobs: Client,
    control: (reqwest::Client, String),
}

impl Setup {
    async fn start() -> Self {
        let emulator = Emulator::builder()
            .with_container("con")
            .with_control_port(0)
            .start()
            .await
            .unwrap();
        for name in ["ownership/0", "ownership/1"] {
            emulator.put_blob("con", name, &[("ownerid", "x")]).unwrap();
        }
        let url = format!("http://{}/{WELL_KNOWN_ACCOUNT}", emulator.blob_addr());
        let control = format!("http://{}", emulator.control_addr().unwrap());
        Self {
            emulator,
            blobs: Client::new(url),
            control: (reqwest::Client::new(), control),
        }
    }

    async fn order(&self, order: &Value) -> (u16, Value) {
        let (http, url) = &self.control;
        let request = http
            .post(format!("{url}/faults/blob"))
            .header("content-type", "application/json")
            .body(order.to_string());
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap())
    }

    fn acted(&self) -> u64 {
        self.emulator.blob_faults().counts().values().sum()
    }

    /// What a store does in a cycle; nothing has to succeed.
    async fn bustle(&self) {
        for (method, path, headers) in [
            ("GET", LISTING, &[][..]),
            ("GET", LISTING, &[][..]),
            ("PUT", "/con/ownership/0?comp=metadata", &[OWNER][..]),
            ("PUT", "/con/checkpoint/0", &[BLOCK, OWNER][..]),
            ("HEAD", "/con/checkpoint/0", &[][..]),
        ] {
            let sent = self.blobs.try_send(method, path, headers, "");
            let _ = timeout(Duration::from_millis(500), sent).await;
        }
    }

    async fn renew(&self) -> Answer {
        let path = "/con/ownership/0?comp=metadata";
        self.blobs.send("PUT", path, &[OWNER], "").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_the_list_acts() {
    let rows: Vec<Value> = LIST
        .lines()
        .filter(|line| line.starts_with("| S"))
        .flat_map(|line| line.split('`').filter(|text| text.starts_with('{')))
        .map(|text| serde_json::from_str(text).expect(text))
        .collect();
    assert!(rows.len() > 30, "{}", rows.len());
    let each = stream::iter(rows).for_each_concurrent(8, |order| async move {
        let setup = Setup::start().await;
        let names = |answer: &Answer| answer.body.matches("<Name>").count();
        let before = names(&setup.blobs.send("GET", LISTING, &[], "").await);
        let (status, answer) = setup.order(&order).await;
        assert_eq!(status, 200, "{order}: {answer}");
        let is_change = ["delete_blob", "delete_container", "put_blobs"]
            .iter()
            .any(|name| order["fault"] == *name);
        if is_change {
            let after = names(&setup.blobs.send("GET", LISTING, &[], "").await);
            assert_ne!(before, after, "{order}");
            return;
        }
        let acts = async {
            while setup.acted() == 0 {
                setup.bustle().await;
            }
        };
        let in_time = timeout(Duration::from_secs(20), acts).await;
        assert!(in_time.is_ok(), "{order} does not act");
        setup.emulator.blob_faults().clear();
        assert_eq!(setup.renew().await.status, 200, "{order}");
    });
    each.await;
}

#[tokio::test]
async fn a_create_that_is_repeated_on_the_way_meets_itself() {
    let setup = Setup::start().await;
    setup.emulator.blob_faults().apply_twice(1);
    let create = [BLOCK, OWNER, ("if-none-match", "*")];
    let answer = setup.blobs.send("PUT", "/con/a", &create, "").await;
    assert_eq!(answer.code(), (409, "BlobAlreadyExists"));
    assert!(setup.emulator.blob_metadata("con", "a").is_some());
}

#[tokio::test]
async fn a_fault_spares_the_first_requests_and_follows_its_seed() {
    let setup = Setup::start().await;
    let order = json!({"fault": "fail", "status": 500, "code": "InternalError",
                       "operation": "list_blobs", "after": 1});
    assert_eq!(setup.order(&order).await.0, 200);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = setup.blobs.send("GET", LISTING, &[], "").await;
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [200, 500, 200]);
    assert_eq!(setup.emulator.blob_requests(BlobOperation::ListBlobs), 3);

    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        setup.emulator.blob_faults().clear();
        let seed = json!({"fault": "seed", "seed": seed});
        assert_eq!(setup.order(&seed).await.0, 200);
        let order = json!({"fault": "fail", "status": 503, "code": "ServerBusy",
                           "times": 1000, "chance": 0.5});
        assert_eq!(setup.order(&order).await.0, 200);
        let mut run = Vec::new();
        for _ in 0..32 {
            run.push(setup.renew().await.status.as_u16());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[1], runs[2]);
}

#[tokio::test]
async fn times_of_change_are_moved_or_missing_in_headers_and_listings() {
    let setup = Setup::start().await;
    let faults = setup.emulator.blob_faults();
    faults.skew_last_modified(2, -86_400);
    let head = setup.blobs.send("HEAD", "/con/ownership/0", &[], "").await;
    let shown = httpdate::parse_http_date(head.header("last-modified")).unwrap();
    let age = SystemTime::now().duration_since(shown).unwrap();
    assert!(age.as_secs() >= 86_400, "{age:?}");
    let listing = setup.blobs.send("GET", LISTING, &[], "").await;
    assert_eq!(
        listing.body.matches(head.header("last-modified")).count(),
        2
    );
    faults.omit_last_modified(2);
    let head = setup.blobs.send("HEAD", "/con/ownership/0", &[], "").await;
    assert_eq!(head.header("last-modified"), "");
    let listing = setup.blobs.send("GET", LISTING, &[], "").await;
    assert_eq!(listing.body.matches("<Last-Modified>").count(), 0);
    assert_eq!(listing.body.matches("<Name>").count(), 2);
}

#[tokio::test]
async fn a_redirect_says_where_to() {
    let setup = Setup::start().await;
    for order in [
        json!({"fault": "fail", "status": 307, "code": "TemporaryRedirect"}),
        json!({"fault": "edit_header", "name": "location", "value": "http://127.0.0.1:1/"}),
    ] {
        assert_eq!(setup.order(&order).await.0, 200);
    }
    // The client follows, and there is nobody.
    let sent = setup.blobs.try_send("GET", LISTING, &[], "").await;
    let error = sent.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn bad_orders_are_refused_with_a_reason() {
    let setup = Setup::start().await;
    for (order, reason) in [
        (json!({"fault": "nonsense"}), "unknown variant"),
        (json!({"times": 1}), "missing field `fault`"),
        (json!([]), "invalid type"),
        (json!({"fault": "fail", "status": 500}), "missing field"),
        (
            json!({"fault": "fail", "status": 99, "code": "x"}),
            "no HTTP status",
        ),
        (json!({"fault": "drop_request", "x": 1}), "unknown field"),
        (
            json!({"fault": "drop_request", "times": -1}),
            "invalid value",
        ),
        (
            json!({"fault": "drop_request", "chance": 2.0}),
            "not from 0 to 1",
        ),
        (
            json!({"fault": "drop_request", "operation": "x"}),
            "unknown variant",
        ),
        (
            json!({"fault": "outage", "on": true, "after": 1}),
            "are not for this",
        ),
        (
            json!({"fault": "outage", "on": true, "times": 1}),
            "unknown field",
        ),
        (
            json!({"fault": "edit_header", "name": "a b"}),
            "cannot be a header",
        ),
        (
            json!({"fault": "delete_blob", "container": "con", "name": "x"}),
            "BlobNotFound",
        ),
        (
            json!({"fault": "delete_container", "container": "x"}),
            "ContainerNotFound",
        ),
        (
            json!({"fault": "put_blobs", "container": "nocon", "name": "x"}),
            "ContainerNotFound",
        ),
        (
            json!({"fault": "replace_body", "body": "x".repeat(1000), "repeat": 4_000_000_000_u32}),
            "at most",
        ),
    ] {
        let (status, answer) = setup.order(&order).await;
        assert_eq!(status, 400, "{order}");
        let text = answer["error"].as_str().unwrap();
        assert!(text.contains(reason), "{order}: {text}");
    }
    assert_eq!(setup.acted(), 0);
    assert!(setup.emulator.blob_faults().active().is_empty());
}

#[tokio::test]
async fn azurites_answers_are_given_if_wanted() {
    for (is_like_azurite, expected) in [
        (false, [(404, "BlobNotFound"), (412, "ConditionNotMet")]),
        (true, [(412, "ConditionNotMet"), (200, "")]),
    ] {
        let emulator = Emulator::builder()
            .with_container("con")
            .with_azurite_deviations(is_like_azurite)
            .start()
            .await
            .unwrap();
        emulator.put_blob("con", "there", &[]).unwrap();
        let url = format!("http://{}/{WELL_KNOWN_ACCOUNT}", emulator.blob_addr());
        let client = Client::new(url);
        for (name, condition, expected) in [
            ("missing", ("if-match", "\"0x1\""), expected[0]),
            ("there", ("if-none-match", "*"), expected[1]),
        ] {
            let path = format!("/con/{name}?comp=metadata");
            let answer = client.send("PUT", &path, &[OWNER, condition], "").await;
            assert_eq!(answer.code(), expected, "{name}, {is_like_azurite}");
        }
    }
}
