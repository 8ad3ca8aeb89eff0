use std::time::Duration;

use axum::http::HeaderMap;

use super::*;

const CONTAINER: &str = "checkpoints";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 700)
}

fn limits() -> Limits {
    Limits {
        total_bytes: 1 << 20,
        containers: 4,
        blobs: 8,
    }
}

fn store_with(limits: Limits, deviations: Deviations) -> Store {
    let mut store = Store::new(limits, deviations);
    let created = store.create_container(CONTAINER, Metadata::default(), at(0));
    created.unwrap();
    store
}

fn store() -> Store {
    store_with(limits(), Deviations::default())
}

fn owner(id: &str) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("ownerid", id).unwrap();
    metadata
}

fn when(name: &'static str, value: &str) -> Conditions {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    Conditions::from_headers(&headers).unwrap()
}

fn put(store: &mut Store, name: &str, conditions: &Conditions) -> Result<Version, ErrorCode> {
    let parts = (Bytes::new(), ContentHeaders::default(), owner("a"));
    store
        .put_blob(CONTAINER, name, parts, conditions, at(1))
        .map_err(|e| e.code)
}

fn set(store: &mut Store, conditions: &Conditions, now: u64) -> Result<Version, ErrorCode> {
    store
        .set_metadata(CONTAINER, "b", owner("a"), conditions, at(now))
        .map_err(|e| e.code)
}

fn any() -> Conditions {
    Conditions::default()
}

#[test]
fn only_the_first_create_wins() {
    let mut store = store();
    let create = when("if-none-match", "*");
    put(&mut store, "b", &create).unwrap();
    let second = put(&mut store, "b", &create).unwrap_err();
    assert_eq!(second, ErrorCode::BlobAlreadyExists);
}

#[test]
fn equal_metadata_still_makes_a_new_version() {
    let mut store = store();
    let first = put(&mut store, "b", &any()).unwrap();
    let second = set(&mut store, &when("if-match", &first.etag.quoted()), 1).unwrap();
    assert!(second.etag > first.etag);
    assert_eq!(second.last_modified, first.last_modified, "same second");
    let stale = set(&mut store, &when("if-match", &first.etag.quoted()), 9);
    assert_eq!(stale.unwrap_err(), ErrorCode::ConditionNotMet);
}

#[test]
fn a_clock_that_goes_back_never_repeats_a_tag() {
    let mut store = store();
    put(&mut store, "b", &any()).unwrap();
    let late = set(&mut store, &any(), 100).unwrap();
    let early = set(&mut store, &any(), 50).unwrap();
    assert!(early.etag > late.etag);
    assert!(early.last_modified < late.last_modified);
}

#[test]
fn metadata_on_a_missing_blob_is_not_found_except_for_azurite() {
    let condition = when("if-match", "0x1");
    let service = set(&mut store(), &condition, 1).unwrap_err();
    assert_eq!(service, ErrorCode::BlobNotFound);
    let mut azurite = store_with(limits(), Deviations::azurite());
    let error = set(&mut azurite, &condition, 1).unwrap_err();
    assert_eq!(error, ErrorCode::ConditionNotMet);
}

#[test]
fn create_only_metadata_on_an_existing_blob_fails_except_for_azurite() {
    let condition = when("if-none-match", "*");
    let mut service = store();
    put(&mut service, "b", &any()).unwrap();
    let error = set(&mut service, &condition, 2).unwrap_err();
    assert_eq!(error, ErrorCode::ConditionNotMet);
    let mut azurite = store_with(limits(), Deviations::azurite());
    put(&mut azurite, "b", &any()).unwrap();
    assert!(set(&mut azurite, &condition, 2).is_ok());
}

#[test]
fn a_put_with_a_tag_never_creates() {
    let error = put(&mut store(), "b", &when("if-match", "0x1")).unwrap_err();
    assert_eq!(error, ErrorCode::ConditionNotMet);
}

#[test]
fn a_missing_container_comes_before_everything_else() {
    let mut store = store();
    let error = store
        .set_metadata("other", "b", owner("a"), &when("if-match", "0x1"), at(1))
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::ContainerNotFound);
}

#[test]
fn limits_hold_and_deletion_gives_room_back() {
    let tight = Limits {
        blobs: 1,
        ..limits()
    };
    let mut store = store_with(tight, Deviations::default());
    put(&mut store, "b", &any()).unwrap();
    let full = put(&mut store, "c", &any()).unwrap_err();
    assert_eq!(full, ErrorCode::InsufficientStorage);
    put(&mut store, "b", &any()).unwrap();
    set(&mut store, &any(), 3).unwrap();
    store.delete_blob(CONTAINER, "b", &any()).unwrap();
    assert_eq!((store.bytes, store.blobs), (0, 0));
    put(&mut store, "c", &any()).unwrap();
    store.delete_container(CONTAINER).unwrap();
    assert_eq!((store.bytes, store.blobs), (0, 0));
}
