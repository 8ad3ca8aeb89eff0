//! What the blob store makes of a storage service that is slow, broken, or answers and is not heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore, WriteCondition,
    WriteOutcome,
};
use eventhubs_processor::credential::{AccessToken, StorageCredential, TokenCredential};
use eventhubs_processor::error::{BoxError, StoreError, StoreErrorKind};
use eventhubs_processor::{Checkpoint, GroupScope};

use tokio::io::AsyncReadExt as _;

use super::scripted_blob::{Act, ScriptedBlob, done, page, properties, refusal, reply};

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
    a_redirect_is_not_followed,
    a_store_that_never_answers_costs_two_tries,
    without_the_retry_one_try_is_all,
    a_body_that_stops_is_under_the_deadline_too,
    an_answer_without_end_is_cut_off,
    nobody_there_is_an_error_that_says_nothing_was_written,
    an_https_account_is_spoken_to_in_tls,
    without_a_token_nothing_is_written_and_the_reason_is_told,
    a_write_whose_answer_was_lost_is_recognised,
    a_lost_answer_is_remembered_while_a_vanished_record_is_created_anew,
    a_race_lost_behind_a_lost_answer_is_lost,
    what_stays_open_is_unknown,
    a_retry_that_goes_through_is_written,
    ages_come_from_the_first_answer_of_the_store,
    a_listing_that_goes_in_circles_ends,
    half_a_listing_is_none,
    a_listing_without_date_or_sense_is_an_error,
    a_listing_made_to_hurt_is_an_error_or_ignored,
    odd_values_in_a_listing_spoil_no_other_record,
    another_spelling_of_the_group_is_looked_for_once,
    a_failing_look_for_another_spelling_does_not_fail_the_listing,
}

const LIMIT: Duration = Duration::from_millis(250);

fn scope() -> GroupScope {
    GroupScope::new("ns.example", "hub", "g1")
}

fn store(server: &ScriptedBlob, backend: BlobBackend) -> BlobCheckpointStore {
    let options = BlobCheckpointStoreOptions::default()
        .with_try_timeout(LIMIT)
        .with_operation_timeout(LIMIT * 6);
    store_with(server, backend, options)
}

fn store_with(
    server: &ScriptedBlob,
    backend: BlobBackend,
    options: BlobCheckpointStoreOptions,
) -> BlobCheckpointStore {
    let credential = StorageCredential::account_key("account", "a2V5");
    let options = options.with_backend(backend);
    BlobCheckpointStore::new(&server.url(), "abc", credential, options).unwrap()
}

async fn renew(store: &BlobCheckpointStore) -> Result<WriteOutcome, StoreError> {
    let condition = WriteCondition::Matches("0x1".into());
    store
        .claim_ownership(&scope(), &"0".into(), Some(&"me".into()), &condition)
        .await
}

async fn create(store: &BlobCheckpointStore) -> Result<WriteOutcome, StoreError> {
    let condition = WriteCondition::Absent;
    store
        .claim_ownership(&scope(), &"0".into(), Some(&"me".into()), &condition)
        .await
}

async fn checkpoint(
    store: &BlobCheckpointStore,
    condition: WriteCondition,
) -> Result<WriteOutcome, StoreError> {
    let checkpoint = Checkpoint {
        partition_id: "0".into(),
        offset: Some("100".into()),
        sequence_number: Some(7),
        client_identifier: None,
    };
    store
        .update_checkpoint(&scope(), &checkpoint, &condition)
        .await
}

fn etag(outcome: Result<WriteOutcome, StoreError>) -> String {
    match outcome.unwrap() {
        WriteOutcome::Written(written) => written.etag.to_string(),
        other => panic!("not written: {other:?}"),
    }
}

fn is_lost(outcome: Result<WriteOutcome, StoreError>) {
    match outcome.unwrap() {
        WriteOutcome::Lost => {}
        other => panic!("not lost: {other:?}"),
    }
}

fn unknown(outcome: Result<WriteOutcome, StoreError>) -> StoreErrorKind {
    match outcome.unwrap() {
        WriteOutcome::Unknown(error) => error.kind(),
        other => panic!("not unknown: {other:?}"),
    }
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
        .with_retry_once(false);
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
        .with_retry_once(false);
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

async fn a_write_whose_answer_was_lost_is_recognised(backend: BlobBackend) {
    let lost_answers = [
        Act::Close,
        Act::Hang,
        refusal("500 Internal Server Error", "InternalError"),
        refusal("503 Server Busy", "ServerBusy"),
    ];
    for lost_answer in lost_answers {
        let server = ScriptedBlob::start([
            lost_answer.clone(),
            refusal("412 Precondition Failed", "ConditionNotMet"),
            properties("0x2", &[("ownerid", "me")]),
            lost_answer.clone(),
            refusal("409 Conflict", "BlobAlreadyExists"),
            properties("0x3", &[("ownerid", "me")]),
            lost_answer,
            refusal("412 Precondition Failed", "ConditionNotMet"),
            properties("0x4", &[("offset", "100"), ("sequencenumber", "7")]),
        ])
        .await;
        let store = store(&server, backend);
        assert_eq!(etag(renew(&store).await), "0x2");
        assert_eq!(etag(create(&store).await), "0x3");
        let matches = WriteCondition::Matches("0x1".into());
        assert_eq!(etag(checkpoint(&store, matches).await), "0x4");
    }
}

async fn a_lost_answer_is_remembered_while_a_vanished_record_is_created_anew(backend: BlobBackend) {
    let server = ScriptedBlob::start([
        Act::Close,
        refusal("404 Not Found", "BlobNotFound"),
        refusal("409 Conflict", "BlobAlreadyExists"),
        properties("0x7", &[("ownerid", "me")]),
    ])
    .await;
    assert_eq!(etag(renew(&store(&server, backend)).await), "0x7");
}

async fn a_race_lost_behind_a_lost_answer_is_lost(backend: BlobBackend) {
    let stale = || refusal("412 Precondition Failed", "ConditionNotMet");
    let server = ScriptedBlob::start([
        // Somebody else owns it.
        Act::Close,
        stale(),
        properties("0x2", &[("ownerid", "you")]),
        // Nobody wrote: the condition did not hold to begin with.
        Act::Close,
        stale(),
        properties("0x1", &[("ownerid", "me")]),
        // The record is gone.
        Act::Close,
        stale(),
        refusal("404 Not Found", "BlobNotFound"),
    ])
    .await;
    let store = store(&server, backend);
    is_lost(renew(&store).await);
    is_lost(renew(&store).await);
    is_lost(renew(&store).await);
}

async fn what_stays_open_is_unknown(backend: BlobBackend) {
    let forbidden = || refusal("403 Forbidden", "AuthenticationFailed");
    let server = ScriptedBlob::start([
        // Two lost answers.
        Act::Close,
        Act::Close,
        // A lost answer, then a refusal.
        Act::Close,
        forbidden(),
        // A lost answer, a changed record, and no way to read it.
        Act::Close,
        refusal("412 Precondition Failed", "ConditionNotMet"),
        forbidden(),
        // Success that does not say which version it made.
        Act::Reply(reply("200 OK", &[], "")),
        Act::Reply(reply("200 OK", &[], "")),
    ])
    .await;
    let store = store(&server, backend);
    assert_eq!(unknown(renew(&store).await), StoreErrorKind::Unavailable);
    assert_eq!(unknown(renew(&store).await), StoreErrorKind::Unauthorized);
    assert_eq!(unknown(renew(&store).await), StoreErrorKind::Unauthorized);
    assert_eq!(unknown(renew(&store).await), StoreErrorKind::Unavailable);
}

async fn a_retry_that_goes_through_is_written(backend: BlobBackend) {
    let server = ScriptedBlob::start([Act::Close, done("200 OK", "0x5")]).await;
    assert_eq!(etag(renew(&store(&server, backend)).await), "0x5");
}

async fn ages_come_from_the_first_answer_of_the_store(backend: BlobBackend) {
    let first = page(
        &[("ns.example/hub/g1/ownership/0", "<ownerid>a</ownerid>")],
        "m1",
    );
    let second = page(&[("ns.example/hub/g1/ownership/1", "<ownerid />")], "")
        .replace("10:00:00", "10:00:07");
    let server = ScriptedBlob::start([Act::Reply(first), Act::Reply(second)]).await;
    let listing = store(&server, backend)
        .list_ownership(&scope())
        .await
        .unwrap();
    let date = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
    assert_eq!(listing.as_of, date);
    let written = listing.ownerships[0].last_modified.unwrap();
    assert_eq!(
        date.duration_since(written).unwrap(),
        Duration::from_secs(30)
    );
    assert_eq!(listing.ownerships[1].owner_id, None);
    assert!(server.requests()[0].contains("prefix=ns.example%2Fhub%2Fg1%2Fownership%2F"));
    assert!(server.requests()[1].contains("marker=m1"));
}

async fn a_listing_that_goes_in_circles_ends(backend: BlobBackend) {
    let same = || Act::Reply(page(&[], "m1"));
    let server = ScriptedBlob::start([same(), same(), same(), same()]).await;
    store(&server, backend)
        .list_ownership(&scope())
        .await
        .unwrap_err();
    assert!(server.requests().len() <= 4);
    let growing = (0..100).map(|n| Act::Reply(page(&[], &format!("m{n}"))));
    let server = ScriptedBlob::start(growing).await;
    let options = BlobCheckpointStoreOptions::default();
    let error = store_with(&server, backend, options)
        .list_ownership(&scope())
        .await;
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Rejected);
    assert!(server.requests().len() < 50, "{}", server.requests().len());
}

async fn half_a_listing_is_none(backend: BlobBackend) {
    let first = page(
        &[("ns.example/hub/g1/ownership/0", "<ownerid>a</ownerid>")],
        "m1",
    );
    let broken = || refusal("500 Internal Server Error", "InternalError");
    let server = ScriptedBlob::start([Act::Reply(first), broken(), broken()]).await;
    let error = store(&server, backend)
        .list_ownership(&scope())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

async fn a_listing_without_date_or_sense_is_an_error(backend: BlobBackend) {
    let undated = page(&[], "").replace("Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n", "");
    for answer in [
        undated,
        reply("200 OK", &[], "<EnumerationResults><Blobs><Blob>"),
        reply("200 OK", &[], "{}"),
        reply("200 OK", &[], ""),
    ] {
        let server =
            ScriptedBlob::start([Act::Reply(answer.clone()), Act::Reply(answer.clone())]).await;
        let error = store(&server, backend)
            .list_ownership(&scope())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{answer}");
    }
}

async fn a_listing_made_to_hurt_is_an_error_or_ignored(backend: BlobBackend) {
    let head = "<?xml version=\"1.0\"?>";
    let deep = "<a>".repeat(100_000);
    let entities =
        "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
    let blob =
        "<Name>ns.example/hub/g1/ownership/0</Name><Properties><Etag>0x1</Etag></Properties>";
    for body in [
        format!("{head}<EnumerationResults>{deep}"),
        format!("{head}<EnumerationResults><Blobs>{deep}"),
        format!("{head}<EnumerationResults><Blobs><Blob><Name>{deep}"),
        format!("{head}<EnumerationResults><Blobs><Blob>{blob}<Metadata>{deep}"),
        format!("{head}<EnumerationResults><Blobs><Blob>{blob}<Metadata><ownerid>{deep}"),
        format!(
            "{head}{entities}<EnumerationResults><Blobs><Blob>{blob}<Metadata><ownerid>&b;</ownerid></Metadata>\
             </Blob></Blobs></EnumerationResults>"
        ),
        "\0\u{feff}<<>>&&".to_owned(),
    ] {
        let answer = reply("200 OK", &[], &body);
        let server = ScriptedBlob::start([Act::Reply(answer.clone()), Act::Reply(answer)]).await;
        let options = BlobCheckpointStoreOptions::default();
        let listing = store_with(&server, backend, options)
            .list_ownership(&scope())
            .await;
        assert!(listing.is_err(), "{listing:?}");
    }
}

async fn odd_values_in_a_listing_spoil_no_other_record(backend: BlobBackend) {
    let name = |n| format!("ns.example/hub/g1/ownership/{n}");
    let names: Vec<String> = (0..6).map(name).collect();
    let body = page(
        &[
            (&names[0], "<ownerid>me</ownerid>"),
            (&names[1], "<ownerid>&#x1F600; &amp;lt;</ownerid>"),
            (
                &names[2],
                "<OwnerId> </OwnerId><x-ms-invalid-name>a b</x-ms-invalid-name>",
            ),
            (&names[3], "<ownerid/><epoch>7</epoch>"),
            (&names[4], ""),
            (&names[5], "<ownerid><![CDATA[a<b]]></ownerid>"),
        ],
        "",
    );
    let server = ScriptedBlob::start([Act::Reply(body)]).await;
    let listing = store(&server, backend)
        .list_ownership(&scope())
        .await
        .unwrap();
    let owners: Vec<_> = listing
        .ownerships
        .iter()
        .map(|ownership| ownership.owner_id.as_ref().map(|id| id.as_str()))
        .collect();
    assert_eq!(
        owners,
        [Some("me"), Some("😀 &lt;"), None, None, None, Some("a<b")]
    );
}

async fn another_spelling_of_the_group_is_looked_for_once(backend: BlobBackend) {
    let empty = || Act::Reply(page(&[], ""));
    let server = ScriptedBlob::start([empty(), empty(), empty()]).await;
    let store = store(&server, backend);
    let spelled = GroupScope::new("NS.example", "Hub", "G1");
    store.list_ownership(&spelled).await.unwrap();
    store.list_ownership(&spelled).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests[1].contains("prefix=NS.example%2FHub%2FG1%2F"));
    assert!(requests[2].contains("prefix=ns.example%2Fhub%2Fg1%2Fownership%2F"));
}

async fn a_failing_look_for_another_spelling_does_not_fail_the_listing(backend: BlobBackend) {
    let server = ScriptedBlob::start([
        Act::Reply(page(&[], "")),
        refusal("403 Forbidden", "AuthorizationPermissionMismatch"),
    ])
    .await;
    let spelled = GroupScope::new("NS.example", "Hub", "G1");
    store(&server, backend)
        .list_ownership(&spelled)
        .await
        .unwrap();
}
