//! Who should own what. Pure: a view of the group goes in, a plan comes out.
//!
//! The clock, the store and the source of chance are arguments, so that production, tests and simulation run the
//! same decisions.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(feature = "unstable-bench")]
pub(crate) mod bench;
mod cadence;
mod claims;
mod kin;
mod plan;
mod quota;
mod reconcile;
mod renewals;
mod snapshot;
mod steals;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

pub(crate) use cadence::{Memory, Outcome};
pub(crate) use kin::{kin_id, leaving_id, promised_suspect_time};
pub(crate) use plan::{Claim, Plan, plan};
pub(crate) use reconcile::reconcile;
pub(crate) use snapshot::{BalanceRule, Snapshot, Standing};
pub(crate) use waiting::Waiting;

/// How many partitions a processor claims at a time while it owns fewer than its share.
///
/// Both end in the same balance, and processors of either strategy share a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadBalancingStrategy {
    /// One partition a cycle, about one cycle a second while something is missing: slow and gentle.
    Balanced,
    /// Free partitions in chunks that double, up to its share; then a third of what is still missing from others in
    /// each round.
    /// The default, as in the .NET and Python SDKs.
    #[default]
    Greedy,
}
