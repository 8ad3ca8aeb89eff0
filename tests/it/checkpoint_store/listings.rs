//! What the blob store makes of listings that are long, odd or broken.

use std::time::Duration;

use eventhubs_processor::GroupScope;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStoreOptions, CheckpointStore as _,
};
use eventhubs_processor::error::StoreErrorKind;

use super::scripted_blob::{Act, ScriptedBlob, page, refusal, reply};
use super::scripted_store::{scope, store, store_with};

for_each_backend! {
    ages_come_from_the_first_answer_of_the_store,
    a_listing_that_goes_in_circles_ends,
    half_a_listing_is_none,
    a_listing_without_date_or_sense_is_an_error,
    a_listing_made_to_hurt_is_an_error_or_ignored,
    odd_values_in_a_listing_spoil_no_other_record,
    another_spelling_of_the_group_is_looked_for_once,
    a_failing_look_for_another_spelling_does_not_fail_the_listing,
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
