//! What the blob store makes of a storage service that is slow, broken, or answers and is not heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore as _,
    WriteCondition,
};
use eventhubs_processor::credential::{AccessToken, StorageCredential, TokenCredential};
use eventhubs_processor::error::{BoxError, StoreErrorKind};
use tokio::io::AsyncReadExt as _;

use super::scripted_blob::{Act, ScriptedBlob, done, page, refusal, reply};
use super::scripted_store::{
    LIMIT, checkpoint, create, etag, is_lost, renew, scope, store, store_with, unknown,
};

for_each_backend! {
    creating_and_updating_use_the_two_safe_requests,
    giving_back_sends_the_key_without_a_value,
    a_checkpoint_without_condition_updates_before_it_creates,
    an_unconditional_checkpoint_survives_a_race_for_its_creation,
    a_lost_race_is_no_error_and_is_not_retried,
    a_record_that_vanished_is_created_anew,
    refusals_are_typed_errors_and_never_a_lost_race,
    an_unexplained_404_is_no_missing_checkpoint,
    a_busy_store_is_asked_once_more_and_its_wait_handed_on,
    a_request_is_sent_again_as_often_as_told,
    a_redirect_is_not_followed,
    a_store_that_never_answers_costs_two_tries,
    without_the_retry_one_try_is_all,
    a_body_that_stops_is_under_the_deadline_too,
    an_answer_without_end_is_cut_off,
    nobody_there_is_an_error_that_says_nothing_was_written,
    an_https_account_is_spoken_to_in_tls,
    without_a_token_nothing_is_written_and_the_reason_is_told,
}

async fn creating_and_updating_use_the_two_safe_requests(backend: BlobBackend) {
    let server = ScriptedBlob::start([done("201 Created", "0x1"), done("200 OK", "0x2")]).await;
    let store = store(&server, backend);
    assert_eq!(etag(create(&store).await), "0x1");
    assert_eq!(etag(renew(&store).await), "0x2");
    let requests = server.requests();
    // One client library escapes the slashes of a name, the other does not; the service takes both for the same.
    let create = requests[0].to_lowercase().replace("%2f", "/");
    assert!(
        create.starts_with("put /abc/ns.example/hub/g1/ownership/0 http/1.1"),
        "{create}"
    );
    assert!(create.contains("\r\nif-none-match: *\r\n"), "{create}");
    assert!(
        create.contains("\r\nx-ms-blob-type: blockblob\r\n"),
        "{create}"
    );
    assert!(create.contains("\r\nx-ms-meta-ownerid: me\r\n"), "{create}");
    assert!(
        create.contains("\r\nx-ms-version: 2021-12-02\r\n"),
        "{create}"
    );
    let renew = requests[1].to_lowercase();
    assert!(renew.contains("?comp=metadata http/1.1"), "{renew}");
    assert!(renew.contains("\r\nif-match: \"0x1\"\r\n"), "{renew}");
    assert!(!renew.contains("if-none-match"), "{renew}");
}

async fn giving_back_sends_the_key_without_a_value(backend: BlobBackend) {
    let server = ScriptedBlob::start([done("200 OK", "0x2")]).await;
    let condition = WriteCondition::Matches("0x1".into());
    let outcome = store(&server, backend)
        .claim_ownership(&scope(), &"0".into(), None, &condition)
        .await;
    assert_eq!(etag(outcome), "0x2");
    let request = server.requests()[0].to_lowercase();
    assert!(
        request.contains("\r\nx-ms-meta-ownerid: \r\n")
            || request.contains("\r\nx-ms-meta-ownerid:\r\n"),
        "{request}"
    );
}

async fn a_checkpoint_without_condition_updates_before_it_creates(backend: BlobBackend) {
    let server = ScriptedBlob::start([
        refusal("404 Not Found", "BlobNotFound"),
        done("201 Created", "0x1"),
    ])
    .await;
    let outcome = checkpoint(&store(&server, backend), WriteCondition::Unconditional).await;
    assert_eq!(etag(outcome), "0x1");
    let requests = server.requests();
    assert!(requests[0].contains("comp=metadata"), "{}", requests[0]);
    assert!(
        !requests[0].to_lowercase().contains("if-match"),
        "{}",
        requests[0]
    );
    assert!(!requests[1].contains("comp=metadata"), "{}", requests[1]);
}

async fn an_unconditional_checkpoint_survives_a_race_for_its_creation(backend: BlobBackend) {
    let server = ScriptedBlob::start([
        refusal("404 Not Found", "BlobNotFound"),
        refusal("409 Conflict", "BlobAlreadyExists"),
        done("200 OK", "0x3"),
    ])
    .await;
    let outcome = checkpoint(&store(&server, backend), WriteCondition::Unconditional).await;
    assert_eq!(etag(outcome), "0x3");
}

async fn a_lost_race_is_no_error_and_is_not_retried(backend: BlobBackend) {
    let server = ScriptedBlob::start([
        refusal("412 Precondition Failed", "ConditionNotMet"),
        refusal("409 Conflict", "BlobAlreadyExists"),
        refusal("412 Precondition Failed", "ConditionNotMet"),
    ])
    .await;
    let store = store(&server, backend);
    is_lost(renew(&store).await);
    is_lost(create(&store).await);
    is_lost(create(&store).await);
    assert_eq!(server.requests().len(), 3);
}

async fn a_record_that_vanished_is_created_anew(backend: BlobBackend) {
    let gone = || refusal("404 Not Found", "BlobNotFound");
    let server = ScriptedBlob::start([
        gone(),
        done("201 Created", "0x9"),
        gone(),
        refusal("409 Conflict", "BlobAlreadyExists"),
        gone(),
    ])
    .await;
    let store = store(&server, backend);
    assert_eq!(etag(renew(&store).await), "0x9");
    is_lost(renew(&store).await);
    let condition = WriteCondition::Matches("0x1".into());
    let given_back = store
        .claim_ownership(&scope(), &"0".into(), None, &condition)
        .await;
    is_lost(given_back);
    assert!(
        server.requests()[1]
            .to_lowercase()
            .contains("if-none-match: *")
    );
}

async fn refusals_are_typed_errors_and_never_a_lost_race(backend: BlobBackend) {
    for (status, code, kind) in [
        (
            "403 Forbidden",
            "AuthenticationFailed",
            StoreErrorKind::Unauthorized,
        ),
        (
            "401 Unauthorized",
            "NoAuthenticationInformation",
            StoreErrorKind::Unauthorized,
        ),
        (
            "404 Not Found",
            "ContainerNotFound",
            StoreErrorKind::ContainerNotFound,
        ),
        (
            "409 Conflict",
            "ContainerBeingDeleted",
            StoreErrorKind::Unavailable,
        ),
        (
            "409 Conflict",
            "BlobImmutableDueToPolicy",
            StoreErrorKind::Rejected,
        ),
        (
            "412 Precondition Failed",
            "LeaseIdMissing",
            StoreErrorKind::Rejected,
        ),
        (
            "400 Bad Request",
            "InvalidHeaderValue",
            StoreErrorKind::Rejected,
        ),
    ] {
        let refused = || refusal(status, code);
        let server = ScriptedBlob::start([refused(), refused(), refused(), refused()]).await;
        let store = store(&server, backend);
        for error in [
            renew(&store).await.unwrap_err(),
            create(&store).await.unwrap_err(),
            store.list_ownership(&scope()).await.unwrap_err(),
            store.checkpoint(&scope(), &"0".into()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(code), "{error}");
        }
        assert_eq!(server.requests().len(), 4, "{code} is not retried");
    }
}

async fn an_unexplained_404_is_no_missing_checkpoint(backend: BlobBackend) {
    // A gateway's 404 taken for "no checkpoint" would start the partition over.
    let server = ScriptedBlob::start([Act::Reply(reply("404 Not Found", &[], ""))]).await;
    let error = store(&server, backend)
        .checkpoint(&scope(), &"0".into())
        .await;
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Rejected);
}

async fn a_busy_store_is_asked_once_more_and_its_wait_handed_on(backend: BlobBackend) {
    let busy = |seconds| {
        let headers = [("x-ms-error-code", "ServerBusy"), ("Retry-After", seconds)];
        Act::Reply(reply("503 Server Busy", &headers, ""))
    };
    let empty = Act::Reply(page(&[], ""));
    let server = ScriptedBlob::start([busy("0"), empty, busy("3")]).await;
    let store = store_with(&server, backend, BlobCheckpointStoreOptions::default());
    store.list_ownership(&scope()).await.unwrap();
    let started = Instant::now();
    let error = store.list_ownership(&scope()).await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "a long wait is the caller's"
    );
    assert_eq!(error.kind(), StoreErrorKind::Busy);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    assert!(error.is_transient());
}

async fn a_request_is_sent_again_as_often_as_told(backend: BlobBackend) {
    let busy = || refusal("503 Server Busy", "ServerBusy");
    let server = ScriptedBlob::start([
        busy(),
        busy(),
        busy(),
        Act::Reply(page(&[], "")),
        busy(),
        busy(),
        busy(),
        busy(),
    ])
    .await;
    let options = BlobCheckpointStoreOptions::default().with_max_retries(3);
    let store = store_with(&server, backend, options);
    store.list_ownership(&scope()).await.unwrap();
    assert_eq!(server.requests().len(), 4);
    store.list_ownership(&scope()).await.unwrap_err();
    assert_eq!(server.requests().len(), 8);
}

async fn a_redirect_is_not_followed(backend: BlobBackend) {
    let elsewhere = ScriptedBlob::start([]).await;
    let location = format!("{}/abc", elsewhere.url());
    let answer = reply(
        "307 Temporary Redirect",
        &[("Location", location.as_str())],
        "",
    );
    let server = ScriptedBlob::start([Act::Reply(answer.clone()), Act::Reply(answer)]).await;
    let store = store(&server, backend);
    let error = store.list_ownership(&scope()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    assert_eq!(
        renew(&store).await.unwrap_err().kind(),
        StoreErrorKind::Rejected
    );
    assert!(
        elsewhere.requests().is_empty(),
        "no credential reaches another host"
    );
}

async fn a_store_that_never_answers_costs_two_tries(backend: BlobBackend) {
    let half_a_head = Act::ReplyAndHang("HTTP/1.1 200 OK\r\nDate: Mon".to_owned());
    let server =
        ScriptedBlob::start([Act::Hang, half_a_head.clone(), half_a_head, Act::Hang]).await;
    let store = store(&server, backend);
    let started = Instant::now();
    let error = store.list_ownership(&scope()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert!(started.elapsed() < LIMIT * 6, "{:?}", started.elapsed());
    assert_eq!(unknown(renew(&store).await), StoreErrorKind::Timeout);
    assert_eq!(server.requests().len(), 4);
}

async fn without_the_retry_one_try_is_all(backend: BlobBackend) {
    let server = ScriptedBlob::start([Act::Hang]).await;
    let options = BlobCheckpointStoreOptions::default()
        .with_try_timeout(LIMIT)
        .with_max_retries(0);
    let outcome = renew(&store_with(&server, backend, options)).await;
    assert_eq!(unknown(outcome), StoreErrorKind::Timeout);
    assert_eq!(server.requests().len(), 1);
}

async fn a_body_that_stops_is_under_the_deadline_too(backend: BlobBackend) {
    let whole = page(
        &[("ns.example/hub/g1/ownership/0", "<ownerid>a</ownerid>")],
        "",
    );
    let half = whole[..whole.len() / 2].to_owned();
    let server = ScriptedBlob::start([
        Act::ReplyAndHang(half.clone()),
        Act::ReplyAndHang(half.clone()),
        Act::ReplyAndClose(half),
        Act::Reply(whole),
    ])
    .await;
    let store = store(&server, backend);
    let error = store.list_ownership(&scope()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    let listing = store.list_ownership(&scope()).await.unwrap();
    assert_eq!(
        listing.ownerships.len(),
        1,
        "a body cut short is read again"
    );
}

async fn an_answer_without_end_is_cut_off(backend: BlobBackend) {
    // 9 MiB of blanks inside of the document.
    let body = format!("<?xml version=\"1.0\"?>{}<x/>", " ".repeat(9 << 20));
    let answer = || Act::ReplyAndClose(reply("200 OK", &[], &body));
    let server = ScriptedBlob::start([answer(), answer()]).await;
    let options = BlobCheckpointStoreOptions::default();
    let error = store_with(&server, backend, options)
        .list_ownership(&scope())
        .await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}

async fn nobody_there_is_an_error_that_says_nothing_was_written(backend: BlobBackend) {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let credential = StorageCredential::account_key("account", "a2V5");
    let store = BlobCheckpointStore::new(
        &format!("http://{address}"),
        "abc",
        credential,
        BlobCheckpointStoreOptions::default().with_backend(backend),
    );
    let error = renew(&store.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

async fn an_https_account_is_spoken_to_in_tls(backend: BlobBackend) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let credential = StorageCredential::account_key("account", "a2V5");
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_max_retries(0);
    let store = BlobCheckpointStore::new(&url, "abc", credential, options).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap()
    });
    let error = renew(&store).await.unwrap_err();
    assert_eq!(
        error.kind(),
        StoreErrorKind::Unavailable,
        "nothing was sent: {error}"
    );
    let handshake_record = 22;
    assert_eq!(server.await.unwrap(), handshake_record);
}

#[derive(Debug)]
struct NoTokens;

#[async_trait]
impl TokenCredential for NoTokens {
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
        assert_eq!(scope, "https://storage.azure.com/.default");
        Err("the identity service is down".into())
    }
}

async fn without_a_token_nothing_is_written_and_the_reason_is_told(backend: BlobBackend) {
    let credential = StorageCredential::token(Arc::new(NoTokens));
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    let store = BlobCheckpointStore::new("https://127.0.0.1:1", "abc", credential, options);
    let error = renew(&store.unwrap()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(
        error.to_string().contains("identity service is down"),
        "{error}"
    );
}
