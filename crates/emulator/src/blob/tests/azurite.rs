//! The same requests to this endpoint and to Azurite give the same answers, except where listed.
//!
//! Runs when `AZURITE_BLOB_ENDPOINT` is set, as `http://127.0.0.1:10000/devstoreaccount1`; Azurite
//! needs `--skipApiVersionCheck` only for versions newer than itself.

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::{
    super::{BlobOptions, Deviations, request::Target},
    client::{Client, start},
};

/// One request: what it shows, method, path and headers. In a path `LONG` stands for a name of
/// 1,025 characters, `MARKER` for the next page of the last listing; in a header `ETAG` for the tag of the last write, `HUGE` for 8 KiB.
struct Step(
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const BLOCK: (&str, &str) = ("x-ms-blob-type", "BlockBlob");
const OWNER: (&str, &str) = ("x-ms-meta-ownerid", "me");
const CREATE: (&str, &str) = ("if-none-match", "*");
const OLD: &str = "Mon, 01 Jan 2001 00:00:00 GMT";
const NEW: &str = "Thu, 01 Jan 2099 00:00:00 GMT";
const META: &str = "/con/a/b?comp=metadata";
const LIST: &str = "/con?restype=container&comp=list&include=metadata";

/// What Azurite 3.35 answers differently also with its deviations switched on here.
const DIFFERENT: [&str; 7] = [
    // It says AuthorizationFailure.
    "an invalid signature",
    // It answers 400 like the service, but without an error code.
    "list with a bad include",
    "list no results",
    "put without a type",
    "put of an unknown type",
    // It takes both.
    "metadata over 8 KiB",
    "a blob name of 1025 characters",
];

/// The two more when they are off.
const DEVIATIONS: [&str; 2] = [
    "set metadata if-match on a missing blob",
    "set metadata create-only on an existing blob",
];

const SCRIPT: &[Step] = &[
    Step("container again", "PUT", "/con?restype=container", &[]),
    Step("container properties", "GET", "/con?restype=container", &[]),
    Step("missing container", "GET", "/nocon?restype=container", &[]),
    Step(
        "list of a missing container",
        "GET",
        "/nocon?restype=container&comp=list",
        &[],
    ),
    Step("put into a missing container", "PUT", "/nocon/a", &[BLOCK]),
    Step(
        "a container name that is too short",
        "PUT",
        "/ab?restype=container",
        &[],
    ),
    Step("set metadata on a missing blob", "PUT", META, &[OWNER]),
    Step(
        "set metadata if-match on a missing blob",
        "PUT",
        META,
        &[OWNER, ("if-match", "\"0x1\"")],
    ),
    Step(
        "set metadata create-only on a missing blob",
        "PUT",
        META,
        &[OWNER, CREATE],
    ),
    Step(
        "put if-match on a missing blob",
        "PUT",
        "/con/a/b",
        &[BLOCK, ("if-match", "\"0x1\"")],
    ),
    Step("head of a missing blob", "HEAD", "/con/a/b", &[]),
    Step("get of a missing blob", "GET", "/con/a/b", &[]),
    Step("delete of a missing blob", "DELETE", "/con/a/b", &[]),
    Step("create", "PUT", "/con/a/b", &[BLOCK, CREATE, OWNER]),
    Step("create again", "PUT", "/con/a/b", &[BLOCK, CREATE, OWNER]),
    Step(
        "create again, encoded",
        "PUT",
        "/con/a%2Fb",
        &[BLOCK, CREATE, OWNER],
    ),
    Step("renew", "PUT", META, &[OWNER, ("if-match", "ETAG")]),
    Step(
        "renew with a stale tag",
        "PUT",
        META,
        &[OWNER, ("if-match", "\"0x1\"")],
    ),
    Step(
        "relinquish",
        "PUT",
        META,
        &[("x-ms-meta-ownerid", ""), ("if-match", "ETAG")],
    ),
    Step("head", "HEAD", "/con/a/b", &[]),
    Step("metadata", "GET", META, &[]),
    Step("list", "GET", LIST, &[]),
    Step(
        "list nothing",
        "GET",
        "/con?restype=container&comp=list&prefix=A",
        &[],
    ),
    Step(
        "list with an empty prefix",
        "GET",
        "/con?restype=container&comp=list&prefix=",
        &[],
    ),
    Step(
        "list with a delimiter",
        "GET",
        "/con?restype=container&comp=list&delimiter=/",
        &[],
    ),
    Step(
        "list with a bad include",
        "GET",
        "/con?restype=container&comp=list&include=x",
        &[],
    ),
    Step(
        "list no results",
        "GET",
        "/con?restype=container&comp=list&maxresults=0",
        &[],
    ),
    Step(
        "set metadata create-only on an existing blob",
        "PUT",
        META,
        &[OWNER, CREATE],
    ),
    Step(
        "set metadata if none of the tag",
        "PUT",
        META,
        &[OWNER, ("if-none-match", "ETAG")],
    ),
    Step(
        "set metadata if none of another",
        "PUT",
        META,
        &[OWNER, ("if-none-match", "\"0x1\"")],
    ),
    Step(
        "set metadata modified since long ago",
        "PUT",
        META,
        &[OWNER, ("if-modified-since", OLD)],
    ),
    Step(
        "set metadata modified in future",
        "PUT",
        META,
        &[OWNER, ("if-modified-since", NEW)],
    ),
    Step(
        "set metadata unmodified since",
        "PUT",
        META,
        &[OWNER, ("if-unmodified-since", OLD)],
    ),
    Step(
        "set metadata unmodified in future",
        "PUT",
        META,
        &[OWNER, ("if-unmodified-since", NEW)],
    ),
    Step(
        "a list of tags on a write",
        "PUT",
        META,
        &[OWNER, ("if-match", "\"0x1\",ETAG")],
    ),
    Step(
        "mixed conditions",
        "PUT",
        META,
        &[("if-match", "ETAG"), ("if-none-match", "\"0x1\"")],
    ),
    Step(
        "get not modified",
        "GET",
        "/con/a/b",
        &[("if-none-match", "ETAG")],
    ),
    Step(
        "head not modified",
        "HEAD",
        "/con/a/b",
        &[("if-none-match", "ETAG")],
    ),
    Step(
        "get not modified since",
        "GET",
        "/con/a/b",
        &[("if-modified-since", NEW)],
    ),
    Step(
        "get with a stale tag",
        "GET",
        "/con/a/b",
        &[("if-match", "\"0x1\"")],
    ),
    Step(
        "get if none of any",
        "GET",
        "/con/a/b",
        &[("if-none-match", "*")],
    ),
    Step(
        "get a range of nothing",
        "GET",
        "/con/a/b",
        &[("x-ms-range", "bytes=0-9")],
    ),
    Step(
        "metadata over 8 KiB",
        "PUT",
        META,
        &[("x-ms-meta-a", "HUGE")],
    ),
    Step(
        "metadata that is no identifier",
        "PUT",
        META,
        &[("x-ms-meta-1a", "b")],
    ),
    Step("put without a type", "PUT", "/con/c", &[]),
    Step(
        "put of an unknown type",
        "PUT",
        "/con/c",
        &[("x-ms-blob-type", "x")],
    ),
    Step(
        "a blob name of 1025 characters",
        "PUT",
        "/con/LONG",
        &[BLOCK],
    ),
    Step("an invalid signature", "GET", LIST, &[("x-ms-date", "now")]),
    Step(
        "delete with a stale tag",
        "DELETE",
        "/con/a/b",
        &[("if-match", "\"0x1\"")],
    ),
    Step("a second blob", "PUT", "/con/z", &[BLOCK, OWNER]),
    Step(
        "first page",
        "GET",
        "/con?restype=container&comp=list&maxresults=1",
        &[],
    ),
    Step(
        "second page",
        "GET",
        "/con?restype=container&comp=list&maxresults=1&marker=MARKER",
        &[],
    ),
    Step("delete", "DELETE", "/con/a/b", &[("if-match", "ETAG")]),
    Step(
        "list containers",
        "GET",
        "/?comp=list&prefix=con&maxresults=1",
        &[],
    ),
    Step("head of a container", "HEAD", "/con?restype=container", &[]),
    Step(
        "container metadata",
        "GET",
        "/con?restype=container&comp=metadata",
        &[],
    ),
    Step(
        "delete of a container",
        "DELETE",
        "/con?restype=container",
        &[],
    ),
    Step(
        "delete of a missing container",
        "DELETE",
        "/con?restype=container",
        &[],
    ),
    Step(
        "renewal in a deleted container",
        "PUT",
        META,
        &[OWNER, ("if-match", "ETAG")],
    ),
];

async fn play(client: &Client) -> Vec<(&'static str, String)> {
    client
        .send("DELETE", "/con?restype=container", &[], "")
        .await;
    client.send("PUT", "/con?restype=container", &[], "").await;
    let mut etag = String::new();
    let mut marker = String::new();
    let mut answers = Vec::new();
    for Step(name, method, path, headers) in SCRIPT {
        let headers: Vec<(&str, String)> = headers
            .iter()
            .map(|(name, value)| (*name, value.replace("ETAG", &etag)))
            .map(|(name, value)| (name, value.replace("HUGE", &"x".repeat(8192))))
            .collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let path = path.replace("LONG", &"n".repeat(1025));
        let path = path.replace("MARKER", &marker);
        let answer = client.send(method, &path, &headers, "").await;
        if *method == "PUT" && path.starts_with("/con/a") && answer.status.is_success() {
            answer.header("etag").clone_into(&mut etag);
        }
        if let Some((_, rest)) = answer.body.split_once("<NextMarker>") {
            let end = rest.find('<').unwrap_or(rest.len());
            marker = percent_encode(&rest.as_bytes()[..end], NON_ALPHANUMERIC).to_string();
        }
        let owner = answer.headers.get("x-ms-meta-ownerid");
        let names = answer.body.matches("<Name>").count();
        answers.push((*name, format!("{:?} {owner:?} {names}", answer.code())));
    }
    answers
}

#[test]
fn the_script_has_every_operation() {
    let account = crate::blob::WELL_KNOWN_ACCOUNT;
    let mut seen = std::collections::BTreeSet::new();
    for Step(name, method, path, _) in SCRIPT {
        let path = path.replace("LONG", "n").replace("MARKER", "m");
        let uri = format!("/{account}{path}").parse().unwrap();
        let target = Target::parse(&method.parse().unwrap(), &uri, account);
        if let Ok(target) = target {
            seen.insert(target.operation);
        } else {
            panic!("{name} is no operation");
        }
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
}

#[tokio::test]
async fn azurite_gives_the_same_answers_except_where_listed() {
    let Ok(azurite) = std::env::var("AZURITE_BLOB_ENDPOINT") else {
        eprintln!("SKIPPED: AZURITE_BLOB_ENDPOINT is not set");
        return;
    };
    let theirs = play(&Client::new(azurite)).await;
    for deviations in [Deviations::default(), Deviations::azurite()] {
        let options = BlobOptions {
            deviations,
            ..BlobOptions::default()
        };
        let (_server, client) = start(options).await;
        let ours = play(&client).await;
        let mut expected = DIFFERENT.to_vec();
        if deviations == Deviations::default() {
            expected.extend(DEVIATIONS);
        }
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let differ = expected.contains(&ours.0);
            assert_eq!(
                ours != theirs,
                differ,
                "ours {ours:?}, Azurite's {theirs:?}"
            );
        }
    }
}
