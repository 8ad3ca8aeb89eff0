//! Who should own what. Pure: a view of the group goes in, a plan comes out.
//!
//! The clock, the store and the source of chance are arguments, so that production, tests and simulation run the
//! same decisions.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod plan;
mod reconcile;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use plan::{BalanceRule, Claim, Plan, plan};
pub(crate) use reconcile::reconcile;
pub(crate) use snapshot::Snapshot;

/// How many partitions a processor claims at a time while it owns fewer than its share.
///
/// Both end in the same balance, and processors of either strategy share a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadBalancingStrategy {
    /// One partition a cycle: slow and gentle.
    Balanced,
    /// All free partitions up to its share at once, and a third of what is still missing from others in each round.
    /// The default, as in the .NET and Python SDKs.
    #[default]
    Greedy,
}
