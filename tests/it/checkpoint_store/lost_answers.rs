//! What the blob store makes of a write whose answer is lost.

use eventhubs_processor::checkpoint::{BlobBackend, WriteCondition};
use eventhubs_processor::error::StoreErrorKind;

use super::scripted_blob::{Act, ScriptedBlob, done, properties, refusal, reply};
use super::scripted_store::{checkpoint, create, etag, is_lost, renew, store, unknown};

for_each_backend! {
    a_write_whose_answer_was_lost_is_recognised,
    a_lost_answer_is_remembered_while_a_vanished_record_is_created_anew,
    a_race_lost_behind_a_lost_answer_is_lost,
    what_stays_open_is_unknown,
    a_retry_that_goes_through_is_written,
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
