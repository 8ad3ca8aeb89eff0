//! Which of our records to write again.

use std::time::Duration;

use super::snapshot::{BalanceRule, Snapshot, Standing};
use crate::model::PartitionId;

/// How old a record is to get. INTEROP: half the shortest expiration of any SDK (JS, Go and Rust: 60 s).
const PERIOD: Duration = Duration::from_secs(30);

/// Renews so that every record is written once a period and one of them every interval: that is the sign of life that
/// our own kind goes by, and it costs no write that foreign processors would not need anyway.
pub(super) fn renewals(
    snapshot: &Snapshot,
    standing: &Standing<'_>,
    rule: &BalanceRule,
    mine: &[PartitionId],
) -> Vec<PartitionId> {
    let (interval, expiration) = (rule.interval, rule.ownership_expiration);
    let period = PERIOD.min(interval * 3).min(expiration / 2).max(interval);
    let limit = (period + interval).min(expiration.mul_f64(0.6));

    let mut by_age: Vec<(Duration, &PartitionId)> = mine
        .iter()
        .filter_map(|id| Some((snapshot.age(snapshot.ownerships.get(id)?), id)))
        // What we wait for is written again only to show that we live: a write of ours may come before the word.
        .filter(|(age, id)| !standing.awaited.contains(*id) || *age >= interval)
        .collect();
    by_age.sort_by(|(age, id), (other_age, other_id)| other_age.cmp(age).then(id.cmp(other_id)));
    let Some((youngest, _)) = by_age.last() else {
        return Vec::new();
    };
    // Between two heartbeats there may be many cycles. Ages are rounded to a second, hence not the whole interval.
    let share = if *youngest >= interval.mul_f64(0.7) {
        let parts = by_age.len() as u128 * interval.as_millis().max(1);
        usize::try_from(parts.div_ceil(period.as_millis().max(1))).unwrap_or(by_age.len())
    } else {
        0
    };
    by_age
        .into_iter()
        .enumerate()
        .filter(|(place, (age, id))| {
            // The oldest is the heartbeat; others are worth a write once they are about due.
            (*place < share && (*place == 0 || *age >= period.mul_f64(0.75)))
                || *age > limit
                // After an outage everything is renewed before anybody is judged.
                || standing.store_up_for.is_some_and(|up_for| *age > up_for)
                // Ours by name, but not by a write we know of.
                || standing.held.get(*id) != snapshot.ownerships.get(*id).map(|record| &record.etag)
        })
        .map(|(_, (_, id))| id.clone())
        .collect()
}
