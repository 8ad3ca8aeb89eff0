//! Faults that tests order, and input nobody should send.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::{BlobOptions, BlobServer, FaultEffect, FaultScope, request::Operation},
    client::start,
};

const BLOCK: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

/// Sends bytes and reads until the connection ends or is silent.
pub(super) async fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The endpoint may close in the middle of garbage; what it said before that counts.
    let _ = stream.write_all(request).await;
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer));
        match read.await {
            Ok(Ok(length @ 1..)) => reply.extend_from_slice(&buffer[..length]),
            _ => return String::from_utf8_lossy(&reply).into_owned(),
        }
    }
}

fn address(server: &BlobServer) -> String {
    let endpoint = server.endpoint().unwrap();
    let host = endpoint.trim_start_matches("http://").split('/').next();
    host.unwrap().to_owned()
}

#[tokio::test]
async fn garbage_is_answered_or_closed_and_the_endpoint_lives_on() {
    let (server, client) = start(BlobOptions::default()).await;
    let address = address(&server);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    for garbage in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01".as_slice(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"GET /\x00\xff HTTP/1.1\r\n\r\n",
        long.as_bytes(),
    ] {
        let reply = exchange(&address, garbage).await;
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 4"),
            "{reply}"
        );
    }
    assert_eq!(client.send("GET", "/?comp=list", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let options = BlobOptions {
        header_timeout: Some(Duration::from_millis(50)),
        ..BlobOptions::default()
    };
    let (server, _client) = start(options).await;
    let mut stream = TcpStream::connect(address(&server)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), end)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let options = BlobOptions {
        key: None,
        body_timeout: Some(Duration::from_millis(50)),
        ..BlobOptions::default()
    };
    let (server, client) = start(options).await;
    let mut stream = TcpStream::connect(address(&server)).await.unwrap();
    let head = "PUT /devstoreaccount1/con/b HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\n\
                Content-Length: 5\r\n\r\nhel";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let end = stream.read_to_end(&mut reply);
    tokio::time::timeout(Duration::from_secs(5), end)
        .await
        .unwrap()
        .unwrap();
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.contains("OperationTimedOut"), "{reply}");
    assert_eq!(client.send("HEAD", "/con/b", &[], "").await.status, 404);
}

#[tokio::test]
async fn a_hundred_thousand_blobs_come_in_pages() {
    const BLOBS: usize = 100_000;
    let options = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let (server, client) = start(options).await;
    for n in 0..BLOBS {
        let name = format!("ownership/{n:06}");
        server
            .account()
            .put_blob("con", &name, &[("ownerid", "a")])
            .unwrap();
    }
    let mut marker = String::new();
    let mut names = 0;
    loop {
        let path = format!(
            "/con?restype=container&comp=list&include=metadata&prefix=ownership/&marker={marker}"
        );
        let page = client.send("GET", &path, &[], "").await;
        assert_eq!(page.status, 200);
        assert!(page.body.len() < 4 << 20, "{}", page.body.len());
        names += page.body.matches("<Name>").count();
        let next = page.body.split("<NextMarker>").nth(1);
        match next.and_then(|rest| rest.split_once("</NextMarker>")) {
            Some((next, _)) => marker = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, BLOBS);
}

#[tokio::test]
async fn bodies_metadata_and_names_have_limits() {
    let options = BlobOptions {
        max_body_bytes: 4,
        ..BlobOptions::default()
    };
    let (_server, client) = start(options).await;
    let big = client.send("PUT", "/con/b", &[BLOCK], "12345").await;
    assert_eq!(big.code(), (413, "RequestBodyTooLarge"));
    assert_eq!(
        client.send("PUT", "/con/b", &[BLOCK], "1234").await.status,
        201
    );
    let value = "x".repeat(8192);
    let huge = [("x-ms-meta-a", value.as_str())];
    let huge = client.send("PUT", "/con/b?comp=metadata", &huge, "").await;
    assert_eq!(huge.code(), (400, "MetadataTooLarge"));
    let name = client
        .send("PUT", "/con/b?comp=metadata", &[("x-ms-meta-a-b", "x")], "")
        .await;
    assert_eq!(name.code(), (400, "InvalidMetadata"));
    let long = format!("/con/{}", "n".repeat(1025));
    assert_eq!(
        client.send("PUT", &long, &[BLOCK], "").await.code(),
        (400, "OutOfRangeInput")
    );
}

#[tokio::test]
async fn a_put_without_length_or_type_is_refused() {
    let options = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let (server, client) = start(options).await;
    let request = b"PUT /devstoreaccount1/con/b HTTP/1.1\r\nHost: x\r\n\r\n";
    let reply = exchange(&address(&server), request).await;
    assert!(reply.starts_with("HTTP/1.1 411"), "{reply}");
    let untyped = client.send("PUT", "/con/b", &[], "").await;
    assert_eq!(untyped.code(), (400, "MissingRequiredHeader"));
    let lease = client.send("PUT", "/con/b?comp=lease", &[], "").await;
    assert_eq!(lease.code(), (501, "NotImplemented"));
}

#[tokio::test]
async fn refusals_are_counted_and_change_nothing() {
    let (server, client) = start(BlobOptions::default()).await;
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let after = Some(Duration::from_secs(3));
    server.faults().fail_next(2, busy, "ServerBusy", after);
    for _ in 0..2 {
        let refused = client.send("PUT", "/con/b", &[BLOCK], "").await;
        assert_eq!(refused.code(), (503, "ServerBusy"));
        assert_eq!(refused.header("retry-after"), "3");
        assert!(
            refused.body.contains("<Code>ServerBusy</Code>"),
            "{}",
            refused.body
        );
    }
    let free = client.send("HEAD", "/con/b", &[], "").await;
    assert_eq!(free.code(), (404, "BlobNotFound"));
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_effect() {
    let (server, client) = start(BlobOptions::default()).await;
    let scope = FaultScope {
        after: 0,
        chance: None,
        operation: Some(Operation::PutBlob),
        name_contains: Some("ownership".to_owned()),
    };
    server.faults().add(scope, FaultEffect::DropReply, Some(1));
    let other = client.send("PUT", "/con/checkpoint/0", &[BLOCK], "").await;
    assert_eq!(other.status, 201, "out of scope");
    let lost = tokio::spawn(async move {
        let create = [BLOCK, ("if-none-match", "*")];
        let answer = client.send("PUT", "/con/ownership/0", &create, "");
        tokio::time::timeout(Duration::from_secs(5), answer).await
    });
    assert!(
        lost.await.is_err(),
        "the client panics on the missing reply"
    );
    let client = super::client::Client::new(server.endpoint().unwrap());
    assert_eq!(
        client
            .send("HEAD", "/con/ownership/0", &[], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn stale_listings_show_the_past_and_heal() {
    let (server, client) = start(BlobOptions::default()).await;
    let path = "/con?restype=container&comp=list";
    server.faults().stale_listings(true);
    client.send("PUT", "/con/b", &[BLOCK], "").await;
    assert!(
        !client
            .send("GET", path, &[], "")
            .await
            .body
            .contains("<Name>b")
    );
    assert_eq!(client.send("HEAD", "/con/b", &[], "").await.status, 200);
    server.faults().clear();
    assert!(
        client
            .send("GET", path, &[], "")
            .await
            .body
            .contains("<Name>b")
    );
}

#[tokio::test]
async fn an_outage_and_a_hanging_body_give_no_answer() {
    let (server, client) = start(BlobOptions {
        key: None,
        ..BlobOptions::default()
    })
    .await;
    server.faults().outage(true);
    assert!(
        client
            .send_raw("GET", "/?comp=list", &[], "")
            .await
            .is_err()
    );
    server.faults().outage(false);
    server
        .faults()
        .add(FaultScope::default(), FaultEffect::HangBody, Some(1));
    let hanging = client.send_raw("GET", "/?comp=list", &[], "");
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hanging)
            .await
            .is_err()
    );
    assert!(client.send_raw("GET", "/?comp=list", &[], "").await.is_ok());
}

#[tokio::test]
async fn a_hanging_body_ends_with_the_faults_also_if_its_client_has_gone() {
    let options = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let (server, _client) = start(options).await;
    server
        .faults()
        .add(FaultScope::default(), FaultEffect::HangBody, Some(1));
    let mut stream = TcpStream::connect(address(&server)).await.unwrap();
    // Another request behind it: it waits in the endpoint's buffer, which then does not look further.
    let request = "GET /devstoreaccount1?comp=list HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = [0; 1024];
    assert!(stream.read(&mut reply).await.unwrap() > 0);
    server.faults().clear();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), end)
        .await
        .unwrap()
        .ok();
}

#[tokio::test]
async fn stop_ends_idle_connections_and_frees_the_port() {
    let (server, client) = start(BlobOptions::default()).await;
    client.send("GET", "/?comp=list", &[], "").await;
    let address = address(&server);
    tokio::time::timeout(Duration::from_secs(5), server.stop())
        .await
        .unwrap();
    tokio::net::TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_held_request_takes_effect_after_its_client_gave_up() {
    let (server, client) = start(BlobOptions::default()).await;
    server.faults().freeze(true);
    let put = client.send("PUT", "/con/b", &[BLOCK], "");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), put)
            .await
            .is_err()
    );
    assert_eq!(server.account().blob_metadata("con", "b"), None);
    server.faults().freeze(false);
    let applied = async {
        while server.account().blob_metadata("con", "b").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), applied)
        .await
        .unwrap();
    assert_eq!(server.account().counts(), [(Operation::PutBlob, 1)]);
}

#[tokio::test]
async fn stop_does_not_wait_for_held_requests() {
    let (server, client) = start(BlobOptions::default()).await;
    server.faults().freeze(true);
    let put = client.send("PUT", "/con/b", &[BLOCK], "");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), put)
            .await
            .is_err()
    );
    tokio::time::timeout(Duration::from_secs(5), server.stop())
        .await
        .unwrap();
}

#[tokio::test]
async fn seeded_blobs_keep_the_case_of_their_metadata() {
    let (server, client) = start(BlobOptions::default()).await;
    server
        .account()
        .put_blob("con", "b\u{1}", &[("OwnerId", "me")])
        .unwrap();
    let path = "/con?restype=container&comp=list&include=metadata&prefix=b%01";
    let list = client.send("GET", path, &[], "").await;
    assert!(list.body.contains("<OwnerId>me</OwnerId>"), "{}", list.body);
    assert!(
        list.body.contains("<Name Encoded=\"true\">b%01</Name>"),
        "{}",
        list.body
    );
    assert!(!list.body.contains('\u{1}'), "not XML");
    assert_eq!(
        server.account().put_blob("con", "b", &[("a-b", "")]),
        Err("InvalidMetadata")
    );
}

#[tokio::test]
async fn a_dropped_reply_hides_a_refusal_too() {
    let options = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let (server, client) = start(options).await;
    server.faults().drop_reply_after_apply(1);
    assert!(client.send_raw("GET", "/con/b", &[], "").await.is_err());
    assert_eq!(
        client
            .send_raw("GET", "/con/b", &[], "")
            .await
            .unwrap()
            .status,
        404
    );
}

#[tokio::test]
async fn replies_can_be_disfigured() {
    let (server, client) = start(BlobOptions::default()).await;
    client.send("PUT", "/con/b", &[BLOCK], "text").await;
    let once = |effect| server.faults().add(FaultScope::default(), effect, Some(1));
    once(FaultEffect::EditHeader(
        "last-modified".parse().unwrap(),
        None,
    ));
    once(FaultEffect::EditHeader(
        "etag".parse().unwrap(),
        Some("W/\"\"".parse().unwrap()),
    ));
    let head = client.send("HEAD", "/con/b", &[], "").await;
    assert_eq!(
        (head.header("last-modified"), head.header("etag")),
        ("", "W/\"\"")
    );
    once(FaultEffect::ReplaceBody {
        part: "<xml".into(),
        count: 1,
    });
    let list = client.send("GET", "/?comp=list", &[], "").await;
    assert_eq!((list.status.as_u16(), list.body.as_str()), (200, "<xml"));
    once(FaultEffect::TruncateBody);
    let cut = tokio::spawn(async move { client.send("GET", "/con/b", &[], "").await });
    assert!(cut.await.is_err(), "the client panics on the missing half");
}
