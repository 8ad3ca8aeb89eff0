//! What a restart finds.

use std::time::{Duration, UNIX_EPOCH};

use super::super::{
    Deviations,
    conditions::Conditions,
    state::{Limits, Store},
};
use super::*;

const LIMITS: Limits = Limits {
    total_bytes: u64::MAX,
    containers: 10,
    blobs: 1000,
};

fn open(path: &Path) -> Store {
    Store::open(path, false, LIMITS, Deviations::default()).unwrap()
}

fn metadata(value: &str) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("OwnerId", value).unwrap();
    metadata
}

fn put(store: &mut Store, name: &str, value: &str) {
    let upload = (
        Bytes::from_static(b"body"),
        ContentHeaders::default(),
        metadata(value),
    );
    let now = UNIX_EPOCH + Duration::from_millis(1_500_300);
    let free = Conditions::default();
    store.put_blob("cont", name, upload, &free, now).unwrap();
}

fn shown(store: &Store) -> String {
    format!("{:?}", store.containers())
}

#[test]
fn everything_of_a_blob_survives_and_tags_go_on() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("blobs.log");
    let mut store = open(&path);
    let now = UNIX_EPOCH + Duration::from_secs(1_000);
    store
        .create_container("cont", Metadata::default(), now)
        .unwrap();
    store
        .create_container("gone", Metadata::default(), now)
        .unwrap();
    put(&mut store, "a/b", "one");
    put(&mut store, "dropped", "two");
    let free = Conditions::default();
    store
        .set_metadata("cont", "a/b", metadata("three"), &free, now)
        .unwrap();
    store.delete_blob("cont", "dropped", &free).unwrap();
    store.delete_container("gone").unwrap();
    let before = shown(&store);
    drop(store);
    let mut store = open(&path);
    assert_eq!(shown(&store), before);
    // The clock has gone back meanwhile; a tag may still not come twice.
    let older = store.blob("cont", "a/b", &free).unwrap().etag;
    let newer = store
        .set_metadata("cont", "a/b", metadata("four"), &free, UNIX_EPOCH)
        .unwrap();
    assert!(newer.etag > older);
}

#[test]
fn a_file_cut_anywhere_gives_the_changes_that_are_whole() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("blobs.log");
    let mut store = open(&path);
    let mut states = vec![(fs::read(&path).unwrap().len(), shown(&store))];
    store
        .create_container("cont", Metadata::default(), UNIX_EPOCH)
        .unwrap();
    states.push((fs::read(&path).unwrap().len(), shown(&store)));
    for name in ["a", "b"] {
        put(&mut store, name, "x");
        states.push((fs::read(&path).unwrap().len(), shown(&store)));
    }
    let whole = fs::read(&path).unwrap();
    let cut = root.path().join("cut.log");
    for len in 0..=whole.len() {
        fs::write(&cut, &whole[..len]).unwrap();
        let expected = states.iter().rfind(|(at, _)| *at <= len);
        let expected = expected.map_or("{}", |(_, state)| state);
        assert_eq!(shown(&open(&cut)), expected, "{len}");
    }
}

#[test]
fn a_renewed_blob_does_not_grow_the_file_for_ever() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("blobs.log");
    let mut store = open(&path);
    store
        .create_container("cont", Metadata::default(), UNIX_EPOCH)
        .unwrap();
    for n in 0..4_000 {
        put(&mut store, "a", &format!("{n}{}", "x".repeat(2_000)));
    }
    let len = fs::metadata(&path).unwrap().len();
    assert!(len <= REWRITE_FROM + 10_000, "{len}");
    assert_eq!(shown(&open(&path)), shown(&store));
}
