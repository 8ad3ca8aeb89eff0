//! Conditions of writes, as data.

use super::ETag;

/// On what a write depends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteCondition {
    /// Only if no record exists.
    Absent,
    /// Only if the record still has this version. A store may also write if the record has vanished, provided
    /// that nobody else creates it meanwhile.
    Matches(ETag),
    /// Whatever the record is now. What the other SDKs do with checkpoints; here for explicit resets.
    Unconditional,
}
