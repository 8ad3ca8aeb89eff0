//! What a restart finds in a partition.

use std::fs;

use bytes::BytesMut;
use proptest::prelude::*;

use super::super::log::{Log, LogState};
use super::super::message::Message;
use super::*;
use crate::amqp::codec::descriptor;
use crate::amqp::codec::encode::{put_binary, put_descriptor};

const KEEP_ALL: Retention = Retention {
    events: usize::MAX,
    bytes: usize::MAX,
};

fn events(count: usize, size: usize) -> Vec<Message> {
    let mut buf = BytesMut::new();
    put_descriptor(&mut buf, descriptor::DATA);
    put_binary(&mut buf, &vec![b'x'; size]);
    vec![Message::parse(&buf.freeze()).unwrap(); count]
}

fn open(directory: &Path, retention: Retention) -> Result<Log, DataError> {
    Log::open(directory, false, retention, None)
}

/// All that readers can see.
fn shown(log: &Log) -> (LogState, Vec<Bytes>) {
    let (_, events) = log.read(0, usize::MAX, usize::MAX);
    (log.state(), events.map(|e| e.encoded.clone()).collect())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    segments(directory)
        .unwrap()
        .into_iter()
        .map(|s| s.path)
        .collect()
}

#[test]
fn a_log_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("0");
    let mut log = open(&directory, KEEP_ALL).unwrap();
    assert!(log.state().is_empty);
    assert!(
        !directory.exists(),
        "nothing on disk before the first event"
    );
    for n in 0..10 {
        log.append(&events(n % 3 + 1, n * 10), 1000 + n as i64)
            .unwrap();
    }
    let before = shown(&log);
    drop(log);
    let mut log = open(&directory, KEEP_ALL).unwrap();
    assert_eq!(shown(&log), before);
    let last = log.append(&events(1, 5), 0).unwrap().unwrap();
    assert_eq!(last.sequence_number, before.0.last_sequence_number + 1);
    assert!(Some(last.offset) > before.0.last_offset);
    assert_eq!(log.state().last_enqueued_ms, before.0.last_enqueued_ms);
    let before = shown(&log);
    drop(log);
    assert_eq!(shown(&open(&directory, KEEP_ALL).unwrap()), before);
}

#[test]
fn a_log_cut_at_any_byte_gives_whole_batches_and_takes_new_ones() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("0");
    let mut log = open(&directory, KEEP_ALL).unwrap();
    log.append(&events(1, 3), 1).unwrap();
    let path = files(&directory).remove(0);
    let mut states = vec![(fs::read(&path).unwrap().len(), log.end())];
    for _ in 0..3 {
        log.append(&events(2, 10), 1).unwrap();
        states.push((fs::read(&path).unwrap().len(), log.end()));
    }
    let whole = fs::read(&path).unwrap();
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let mut log = open(&directory, KEEP_ALL).unwrap();
        let expected = states.iter().rfind(|(at, _)| *at <= len);
        assert_eq!(log.end(), expected.map_or(0, |(_, end)| *end), "{len}");
        log.append(&events(1, 1), 1).unwrap();
        let before = shown(&log);
        drop(log);
        assert_eq!(shown(&open(&directory, KEEP_ALL).unwrap()), before);
    }
}

#[test]
fn damage_in_the_middle_is_told_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("0");
    let mut log = open(&directory, KEEP_ALL).unwrap();
    for _ in 0..3 {
        log.append(&events(1, 50), 1).unwrap();
    }
    drop(log);
    let path = files(&directory).remove(0);
    let mut damaged = fs::read(&path).unwrap();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(matches!(
        open(&directory, KEEP_ALL),
        Err(DataError::Damaged { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), damaged);
}

#[test]
fn retention_drops_files_and_a_missing_one_is_told() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("0");
    let retention = Retention {
        events: usize::MAX,
        bytes: 1 << 20,
    };
    let mut log = open(&directory, retention).unwrap();
    for n in 0..500 {
        log.append(&events(1, 10_000), n).unwrap();
    }
    let there = files(&directory);
    let size: u64 = there.iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert!(size < 2 << 20, "{size}");
    assert!(there.len() > 2);
    let before = shown(&log);
    drop(log);
    assert_eq!(shown(&open(&directory, retention).unwrap()), before);

    // A crash between the birth of a segment and its first record.
    let newest = there.last().unwrap();
    let torn = newest.with_file_name(format!("{:020}.log", before.0.last_sequence_number + 1));
    fs::write(&torn, b"abc").unwrap();
    let mut log = open(&directory, retention).unwrap();
    assert_eq!(shown(&log), before);
    assert!(!torn.exists());
    log.append(&events(1, 10), 600).unwrap();
    let before = shown(&log);
    drop(log);
    assert_eq!(shown(&open(&directory, retention).unwrap()), before);

    fs::remove_file(&there[1]).unwrap();
    assert!(matches!(
        open(&directory, retention),
        Err(DataError::Damaged { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), valid in any::<bool>()) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("0");
        let mut log = open(&directory, KEEP_ALL).unwrap();
        log.append(&events(1, 3), 1).unwrap();
        drop(log);
        let path = files(&directory).remove(0);
        let mut content = if valid { fs::read(&path).unwrap() } else { Vec::new() };
        let at = frame::start(&mut content);
        content.extend_from_slice(&bytes);
        frame::finish(&mut content, at);
        fs::write(&path, content).unwrap();
        let _ = open(&directory, KEEP_ALL);
    }
}
