//! Which free partitions to claim first.

use super::view::Free;
use crate::model::OwnerId;

/// Everybody prefers other partitions, so that processors which see the same free ones seldom want the same.
pub(super) fn by_preference(mut free: Vec<Free>, me: &OwnerId) -> Vec<Free> {
    free.sort_by_cached_key(|free| preference(free.partition_id.as_str(), me));
    free
}

/// Rendezvous hash: orders the same names differently for every owner, and always the same way for one.
pub(super) fn preference(name: &str, me: &OwnerId) -> u64 {
    // FNV-1a with a final mix. Not the standard library's hasher, which may change with the compiler.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in me.as_str().bytes().chain([0xff]).chain(name.bytes()) {
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
