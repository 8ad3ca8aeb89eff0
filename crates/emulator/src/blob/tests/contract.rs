//! The answers checkpoint stores depend on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    super::{BlobOptions, Deviations, WallClock},
    client::{Client, start},
};

const BLOCK: (&str, &str) = ("x-ms-blob-type", "BlockBlob");
const CREATE: (&str, &str) = ("if-none-match", "*");

#[tokio::test]
async fn an_ownership_lives_through_claim_renewal_and_relinquishment() {
    let (server, client) = start(BlobOptions::default()).await;
    let blob = "/con/ns/hub/$default/ownership/0";
    let metadata = format!("{blob}?comp=metadata");
    let create = [BLOCK, CREATE, ("x-ms-meta-ownerid", "me")];

    let claimed = client.send("PUT", blob, &create, "").await;
    assert_eq!(claimed.status, 201);
    let first = claimed.header("etag").to_owned();
    assert!(first.starts_with("\"0x"), "{first}");
    assert_eq!(claimed.header("x-ms-request-server-encrypted"), "true");
    assert!(!claimed.header("server").is_empty());
    assert!(httpdate::parse_http_date(claimed.header("last-modified")).is_ok());

    let lost = client.send("PUT", blob, &create, "").await;
    assert_eq!(lost.code(), (409, "BlobAlreadyExists"));
    assert!(
        lost.body.contains("<Code>BlobAlreadyExists</Code>"),
        "{}",
        lost.body
    );

    let renew = [("if-match", first.as_str()), ("x-ms-meta-ownerid", "me")];
    let renewed = client.send("PUT", &metadata, &renew, "").await;
    assert_eq!(renewed.status, 200);
    let stale = client.send("PUT", &metadata, &renew, "").await;
    assert_eq!(stale.code(), (412, "ConditionNotMet"));

    let unquoted = renewed.header("etag").trim_matches('"').to_owned();
    let free = [("if-match", unquoted.as_str()), ("x-ms-meta-ownerid", "")];
    assert_eq!(client.send("PUT", &metadata, &free, "").await.status, 200);

    let head = client.send("HEAD", blob, &[], "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers.get("x-ms-meta-ownerid").unwrap(), "");
    assert_eq!(head.header("content-length"), "0");

    let path = "/con?restype=container&comp=list&include=metadata&prefix=ns%2Fhub%2F";
    let list = client.send("GET", path, &[], "").await;
    assert_eq!(list.status, 200, "{}", list.body);
    assert!(
        list.body
            .contains("<Name>ns/hub/$default/ownership/0</Name>")
    );
    assert!(
        list.body.contains("<Metadata><ownerid/></Metadata>"),
        "{}",
        list.body
    );
    let etag = head.header("etag").trim_matches('"');
    assert!(list.body.contains(&format!("<Etag>{etag}</Etag>")));
    server.stop().await;
}

#[tokio::test]
async fn missing_things_are_told_apart() {
    let (_server, client) = start(BlobOptions::default()).await;
    let set = [("if-match", "\"0x1\""), ("x-ms-meta-a", "b")];
    for (method, path, headers, code) in [
        (
            "PUT",
            "/con/b?comp=metadata",
            &set[..],
            (404, "BlobNotFound"),
        ),
        (
            "PUT",
            "/con/b?comp=metadata",
            &set[1..],
            (404, "BlobNotFound"),
        ),
        (
            "PUT",
            "/nope/b?comp=metadata",
            &set[..],
            (404, "ContainerNotFound"),
        ),
        ("PUT", "/nope/b", &[BLOCK][..], (404, "ContainerNotFound")),
        ("GET", "/con/b", &[][..], (404, "BlobNotFound")),
        ("HEAD", "/con/b", &[][..], (404, "BlobNotFound")),
        ("DELETE", "/con/b", &[][..], (404, "BlobNotFound")),
        (
            "GET",
            "/nope?restype=container&comp=list",
            &[][..],
            (404, "ContainerNotFound"),
        ),
        (
            "PUT",
            "/con/b",
            &[BLOCK, ("if-match", "0x1")][..],
            (412, "ConditionNotMet"),
        ),
    ] {
        let answer = client.send(method, path, headers, "").await;
        assert_eq!(answer.code(), code, "{method} {path}");
        let has_body = method != "HEAD";
        assert_eq!(answer.body.contains("<Error>"), has_body, "{}", answer.body);
    }
}

#[tokio::test]
async fn deviations_answer_like_azurite() {
    let options = BlobOptions {
        deviations: Deviations::azurite(),
        ..BlobOptions::default()
    };
    let (_server, client) = start(options).await;
    let set = [("if-match", "\"0x1\""), ("x-ms-meta-a", "b")];
    let answer = client.send("PUT", "/con/b?comp=metadata", &set, "").await;
    assert_eq!(answer.code(), (412, "ConditionNotMet"));
    client.send("PUT", "/con/b", &[BLOCK], "").await;
    let answer = client
        .send("PUT", "/con/b?comp=metadata", &[CREATE], "")
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn reads_can_be_conditional() {
    let (_server, client) = start(BlobOptions::default()).await;
    let put = client.send("PUT", "/con/b", &[BLOCK], "text").await;
    let etag = put.header("etag");
    for method in ["GET", "HEAD"] {
        let same = client
            .send(method, "/con/b", &[("if-none-match", etag)], "")
            .await;
        assert_eq!(same.status, 304);
        let other = client
            .send(method, "/con/b", &[("if-match", "0x1")], "")
            .await;
        assert_eq!(other.code(), (412, "ConditionNotMet"));
    }
    let get = client.send("GET", "/con/b", &[], "").await;
    assert_eq!(
        (get.body.as_str(), get.header("content-length")),
        ("text", "4")
    );
    let part = client
        .send("GET", "/con/b", &[("x-ms-range", "bytes=1-2")], "")
        .await;
    assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "ex"));
}

#[tokio::test]
async fn names_are_decoded_once_whatever_their_encoding() {
    let (_server, client) = start(BlobOptions::default()).await;
    for (encoded, raw) in [
        ("/con/a%2Fb%2F%24c", "/con/a/b/$c"),
        ("/con/caf%C3%A9%20%25", "/con/caf%c3%a9%20%25"),
        ("/con/a%252Fb", "/con/a%252fb"),
    ] {
        assert_eq!(client.send("PUT", encoded, &[BLOCK], "").await.status, 201);
        let expected = if raw == "/con/a%252fb" { 404 } else { 200 };
        assert_eq!(
            client.send("HEAD", raw, &[], "").await.status,
            expected,
            "{raw}"
        );
    }
    let list = client
        .send("GET", "/con?restype=container&comp=list", &[], "")
        .await;
    for name in ["a/b/$c", "café %", "a%2Fb"] {
        assert!(
            list.body.contains(&format!("<Name>{name}</Name>")),
            "{}",
            list.body
        );
    }
}

#[tokio::test]
async fn listings_come_in_pages() {
    let (_server, client) = start(BlobOptions::default()).await;
    for i in 0..5 {
        client
            .send("PUT", &format!("/con/p/{i}"), &[BLOCK], "")
            .await;
    }
    let mut marker = String::new();
    let mut names = Vec::new();
    loop {
        let path = format!(
            "/con?restype=container&comp=list&maxresults=2&prefix=p/&marker={}",
            marker.replace('!', "%21")
        );
        let page = client.send("GET", &path, &[], "").await;
        assert_eq!(page.status, 200, "{}", page.body);
        names.extend(between(&page.body, "<Name>", "</Name>"));
        match between(&page.body, "<NextMarker>", "</NextMarker>").pop() {
            Some(next) => marker = next,
            None => break,
        }
    }
    assert_eq!(names, ["p/0", "p/1", "p/2", "p/3", "p/4"]);
    let path = "/con?restype=container&comp=list&delimiter=/";
    let folded = client.send("GET", path, &[], "").await;
    assert!(
        folded
            .body
            .contains("<BlobPrefix><Name>p/</Name></BlobPrefix>")
    );
}

fn between(text: &str, start: &str, end: &str) -> Vec<String> {
    let parts = text.split(start).skip(1);
    parts
        .filter_map(|part| Some(part.split_once(end)?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn containers_are_created_listed_and_deleted() {
    let (_server, client) = start(BlobOptions::default()).await;
    let path = "/other?restype=container";
    assert_eq!(client.send("PUT", path, &[], "").await.status, 201);
    let again = client.send("PUT", path, &[], "").await;
    assert_eq!(again.code(), (409, "ContainerAlreadyExists"));
    let properties = client.send("GET", path, &[], "").await;
    assert_eq!(properties.header("x-ms-lease-state"), "available");
    let list = client.send("GET", "/?comp=list", &[], "").await;
    assert_eq!(between(&list.body, "<Name>", "</Name>"), ["con", "other"]);
    assert_eq!(client.send("DELETE", path, &[], "").await.status, 202);
    let gone = client.send("HEAD", path, &[], "").await;
    assert_eq!(gone.code(), (404, "ContainerNotFound"));
    let bad = client
        .send("PUT", "/Bad_Name?restype=container", &[], "")
        .await;
    assert_eq!(bad.code(), (400, "InvalidResourceName"));
}

#[tokio::test]
async fn metadata_names_keep_their_case_in_listings() {
    // reqwest sends names in lower case, so this request is written by hand.
    let unsigned = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let (open, open_client) = start(unsigned).await;
    let host = open.endpoint().unwrap();
    let address = host
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap();
    let request = "PUT /devstoreaccount1/con/b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\
                   x-ms-blob-type: BlockBlob\r\nx-ms-meta-OwnerId: me\r\n\r\n";
    let reply = super::robustness::exchange(address, request.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    let path = "/con?restype=container&comp=list&include=metadata";
    let list = open_client.send("GET", path, &[], "").await;
    assert!(list.body.contains("<OwnerId>me</OwnerId>"), "{}", list.body);
}

#[tokio::test]
async fn the_clock_is_the_one_given() {
    let now = UNIX_EPOCH + Duration::from_millis(1_000_000_500);
    let options = BlobOptions {
        clock: WallClock::new(move || now),
        check_dates: false,
        ..BlobOptions::default()
    };
    let (server, client) = start(options).await;
    server.faults().skew_date(Duration::from_secs(600), true);
    let put = client.send("PUT", "/con/b", &[BLOCK], "").await;
    assert_eq!(put.header("last-modified"), "Mon, 12 Jan 1970 13:46:40 GMT");
    assert_eq!(put.header("date"), "Mon, 12 Jan 1970 13:36:40 GMT");
}

#[tokio::test]
async fn unsigned_wrongly_signed_and_old_requests_are_refused() {
    let (server, mut client) = start(BlobOptions::default()).await;
    let unsigned = client
        .send_raw("GET", "/?comp=list", &[], "")
        .await
        .unwrap();
    assert_eq!(unsigned.code(), (401, "NoAuthenticationInformation"));
    client.date = Some(SystemTime::now() - Duration::from_secs(16 * 60));
    let old = client.send("GET", "/?comp=list", &[], "").await;
    assert_eq!(old.code(), (403, "AuthenticationFailed"));
    let mut other = Client::new(server.endpoint().unwrap());
    other.key = "AAAA".to_owned();
    let wrong = other.send("GET", "/?comp=list", &[], "").await;
    assert_eq!(wrong.code(), (403, "AuthenticationFailed"));
    assert!(wrong.body.contains("string to sign"), "{}", wrong.body);
}

#[tokio::test]
async fn versions_and_client_request_ids_are_echoed() {
    let (_server, client) = start(BlobOptions::default()).await;
    let id = [("x-ms-client-request-id", "my-id")];
    let answer = client.send("GET", "/?comp=list", &id, "").await;
    assert_eq!(answer.header("x-ms-client-request-id"), "my-id");
    assert_eq!(answer.header("x-ms-version"), "2021-12-02");
    assert!(!answer.header("x-ms-request-id").is_empty());
    let bad = [("x-ms-version", "latest")];
    let bad = client
        .send_raw("GET", "/?comp=list", &bad, "")
        .await
        .unwrap();
    assert_eq!(bad.code(), (400, "InvalidHeaderValue"));
}

#[tokio::test]
async fn of_many_claims_at_once_one_wins() {
    let (server, _) = start(BlobOptions::default()).await;
    let endpoint = server.endpoint().unwrap();
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = Client::new(endpoint.clone());
        claims.spawn(async move {
            let create = [BLOCK, CREATE];
            client
                .send("PUT", "/con/ownership/0", &create, "")
                .await
                .status
                .as_u16()
        });
    }
    let mut answers = claims.join_all().await;
    answers.sort_unstable();
    assert_eq!(answers[0], 201);
    assert_eq!(answers[1..], [409; 15]);
}

#[tokio::test]
async fn a_signature_for_creation_does_not_overwrite() {
    // Made by the JavaScript SDK; it expires in 2030, so the endpoint stays in 2026.
    let sas = "sv=2021-12-02&ss=b&srt=o&se=2030-01-02T03%3A04%3A05Z&sp=c\
               &sig=ZOrPazgf7CJies%2FVn3BpqrDWqNteSSgPPxA8zf0naCQ%3D";
    let now = UNIX_EPOCH + Duration::from_secs(1_795_477_570);
    let options = BlobOptions {
        clock: WallClock::new(move || now),
        ..BlobOptions::default()
    };
    let (_server, client) = start(options).await;
    let path = format!("/con/b?{sas}");
    let created = client.send_raw("PUT", &path, &[BLOCK], "").await.unwrap();
    assert_eq!(created.status, 201);
    let again = client.send_raw("PUT", &path, &[BLOCK], "").await.unwrap();
    assert_eq!(again.code(), (403, "AuthorizationPermissionMismatch"));
}
