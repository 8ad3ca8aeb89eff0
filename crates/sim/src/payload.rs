//! What is in an event: enough to know it again.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::history::Partition;

/// The body of an event: 16 bytes that only this place in this run has.
pub(crate) fn body(seed: u64, partition: Partition, seq: i64) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (seed, partition, seq).hash(&mut hasher);
    let mut body = seq.to_be_bytes().to_vec();
    body.extend(hasher.finish().to_be_bytes());
    body
}
