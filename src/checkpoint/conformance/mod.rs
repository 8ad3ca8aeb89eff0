//! The behaviour that every [`CheckpointStore`] must show, as functions that panic where it does not.
//!
//! Run all of them with [`run_all`] against a store of your own; each takes fresh names, so that a store may
//! be shared and hold records already. The messages say the rule that was broken.
//!
//! ```
//! # async fn check() {
//! use eventhubs_processor::checkpoint::{InMemoryCheckpointStore, conformance};
//!
//! let checks = conformance::run_all(&InMemoryCheckpointStore::new()).await;
//! assert!(checks > 20);
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check());
//! ```
#![allow(
    clippy::missing_panics_doc,
    reason = "panicking is how these functions tell that a rule is broken"
)]

mod checkpoints;
mod ownership;
mod support;

pub use self::checkpoints::{
    a_checkpoint_moves_on_its_version, a_checkpoint_reads_back, a_missing_checkpoint_is_none,
    an_unconditional_checkpoint_always_writes, creating_a_checkpoint_twice_loses,
    one_of_many_checkpoints_wins, ownership_and_checkpoints_are_apart,
    unreadable_checkpoints_are_refused,
};
pub use self::ownership::{
    a_created_record_is_listed, a_stale_version_loses, an_unknown_group_is_empty,
    an_unknown_version_never_overwrites, an_unowned_record_can_be_claimed, creating_twice_loses,
    giving_back_after_a_steal_loses, giving_back_leaves_an_unowned_record,
    groups_do_not_see_each_other, many_partitions_are_listed, names_are_folded,
    names_do_not_reach_into_other_groups, one_of_many_creators_wins, one_of_many_thieves_wins,
    renewing_changes_the_version, stealing_takes_over, the_store_clock_is_usable,
    unconditional_ownership_is_refused, unwritable_owner_ids_are_refused,
};
use super::CheckpointStore;

/// What may differ between stores that are all correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConformanceOptions {
    /// Whether names that differ in case only are the same group. Default `true`.
    pub folds_names: bool,
    /// How many partitions the group with many partitions has. Default 64.
    pub partitions: usize,
    /// How many tasks race. Default 16.
    pub racers: usize,
}

impl Default for ConformanceOptions {
    fn default() -> Self {
        Self {
            folds_names: true,
            partitions: 64,
            racers: 16,
        }
    }
}

impl ConformanceOptions {
    /// Sets [`folds_names`](Self::folds_names).
    #[must_use]
    pub fn with_folds_names(mut self, folds_names: bool) -> Self {
        self.folds_names = folds_names;
        self
    }

    /// Sets [`partitions`](Self::partitions).
    #[must_use]
    pub fn with_partitions(mut self, partitions: usize) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets [`racers`](Self::racers).
    #[must_use]
    pub fn with_racers(mut self, racers: usize) -> Self {
        self.racers = racers;
        self
    }
}

/// Runs every check with default options. Returns how many there were.
pub async fn run_all(store: &dyn CheckpointStore) -> usize {
    run_all_with(store, &ConformanceOptions::default()).await
}

/// Runs every check that the options allow. Returns how many there were.
pub async fn run_all_with(store: &dyn CheckpointStore, options: &ConformanceOptions) -> usize {
    let mut count = 0;
    macro_rules! run {
        ($($check:ident),* $(,)?) => {
            $(
                tracing::debug!(check = stringify!($check), "conformance");
                $check(store).await;
                count += 1;
            )*
        };
    }
    run!(
        an_unknown_group_is_empty,
        a_created_record_is_listed,
        creating_twice_loses,
        renewing_changes_the_version,
        stealing_takes_over,
        a_stale_version_loses,
        an_unknown_version_never_overwrites,
        giving_back_leaves_an_unowned_record,
        giving_back_after_a_steal_loses,
        an_unowned_record_can_be_claimed,
        groups_do_not_see_each_other,
        names_do_not_reach_into_other_groups,
        unwritable_owner_ids_are_refused,
        unconditional_ownership_is_refused,
        the_store_clock_is_usable,
        a_missing_checkpoint_is_none,
        a_checkpoint_reads_back,
        creating_a_checkpoint_twice_loses,
        a_checkpoint_moves_on_its_version,
        an_unconditional_checkpoint_always_writes,
        unreadable_checkpoints_are_refused,
        ownership_and_checkpoints_are_apart,
    );
    many_partitions_are_listed(store, options.partitions).await;
    one_of_many_creators_wins(store, options.racers).await;
    one_of_many_thieves_wins(store, options.racers).await;
    one_of_many_checkpoints_wins(store, options.racers).await;
    count += 4;
    if options.folds_names {
        names_are_folded(store).await;
        count += 1;
    }
    count
}
