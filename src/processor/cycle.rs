//! One load-balancing cycle: observe → plan → act → reconcile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::control::{Control, until};
use super::fence::{Fence, Sent};
use super::handover::{Heir, hand_over, is_waiting};
use super::pump::Shared;
use crate::balance::{
    self, BalanceRule, Claim, Outcome, Plan, Snapshot, Standing, Waiting, leaving_id,
    promised_suspect_time,
};
use crate::checkpoint::{OwnershipListing, WriteCondition, WriteOutcome};
use crate::error::{ProcessingError, StoreError};
use crate::model::{ETag, PartitionId};
use crate::telemetry;

/// Ownership writes under way at once: enough that 1024 renewals fit into a cycle, few enough for any storage account.
pub(super) const MAX_CONCURRENT_WRITES: usize = 32;

/// How long a cycle may go on once the processor stops. What it leaves open is found by a listing at the end.
const STOP_GRACE: Duration = Duration::from_secs(1);

const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Control {
    /// One cycle, or a look at what we wait for. Notes when the next is due.
    pub(super) async fn cycle(&mut self) {
        let begun = Instant::now();
        if let Some(error) = self.shared.transport.take_trouble() {
            self.reporter.report(ProcessingError::Authorization(error));
        }
        let listing = self.shared.store.list_ownership(&self.shared.scope);
        let listing = match until(&self.shutdown, listing).await {
            Some(Ok(listing)) => listing,
            Some(Err(error)) => {
                // No view, no decision: what we own goes on being read.
                self.store.failing_since.get_or_insert(begun);
                self.shared.board.balancing.cycle(false);
                // At most an interval: the records are to be seen again before others take us for dead.
                let asked = error.retry_after();
                self.reporter.report(ProcessingError::LoadBalancing(error));
                let Self {
                    shared,
                    list_backoff,
                    ..
                } = self;
                let delay = shared.draw(|rng| list_backoff.next_delay(asked, rng));
                self.next_plan = Instant::now() + delay;
                self.next_look = self.next_plan;
                return;
            }
            None => return,
        };
        self.list_backoff.reset();
        self.shared.board.balancing.cycle(true);
        self.judge_store();
        let snapshot = self.snapshot(listing);
        self.settle_awaited(&snapshot);
        self.note_passed_on(&snapshot);
        self.make_way(&snapshot);
        self.listed = Some(begun);
        let is_contested = !std::mem::take(&mut self.contested).is_empty();
        let rule = self.rule();
        if is_contested || begun >= self.next_plan {
            let plan = self.plan(&snapshot);
            let outcome = self.act(&plan).await;
            self.warn_if_slow(begun.elapsed());
            let Self { shared, memory, .. } = self;
            let delay = shared.draw(|rng| memory.next_delay(&plan, outcome, &rule, rng));
            self.next_plan = Instant::now() + delay;
        }
        self.reconcile();
        self.next_look = Instant::now() + look_every(rule.interval);
    }

    fn rule(&self) -> BalanceRule {
        let options = &self.shared.options;
        BalanceRule {
            strategy: options.load_balancing_strategy,
            interval: options.load_balancing_interval,
            suspect_time: options.suspect_time(),
            ownership_expiration: options.partition_ownership_expiration,
        }
    }

    /// Called with each listing. If the store may have failed everybody for longer than a live owner can afford, silences
    /// count from now on.
    fn judge_store(&mut self) {
        let (now, rule) = (Instant::now(), self.rule());
        let patience =
            (rule.suspect_time.saturating_sub(rule.interval)).max(rule.interval.mul_f64(1.3));
        let was_unproven = self
            .store
            .proven
            .is_some_and(|proven| now - proven > patience);
        // Of what we did see fail we know that others were late because of it.
        let has_failed = self
            .store
            .failing_since
            .take()
            .is_some_and(|since| now - since > rule.interval / 4);
        if was_unproven || has_failed {
            self.store.up_since = Some(now);
        }
        if self
            .store
            .up_since
            .is_some_and(|since| now - since > rule.ownership_expiration)
        {
            self.store.up_since = None;
        }
    }

    fn snapshot(&self, listing: OwnershipListing) -> Snapshot {
        let ownerships = listing.ownerships.into_iter().map(|mut ownership| {
            let id = ownership.partition_id.clone();
            // A listing that shows what we have replaced shows the past. Our own writes count, and age: whoever sees the
            // present goes by when we wrote last.
            if let Some(version) = self.owned.get(&id)
                && let Some(age) = self.former.age_of_successor(&id, &ownership.etag)
            {
                ownership.owner_id = Some(self.shared.owner_id.clone());
                ownership.etag = version.clone();
                ownership.last_modified = listing.as_of.checked_sub(age);
            }
            (id, ownership)
        });
        Snapshot {
            partitions: self.partitions.clone(),
            ownerships: ownerships.collect(),
            as_of: listing.as_of,
        }
    }

    /// Partitions that others of our kind are to hand over are ours to read once they have written our name again.
    fn settle_awaited(&mut self, snapshot: &Snapshot) {
        let suspect_time = self.shared.options.suspect_time();
        let store_up_for = self.store.up_since.map(|since| since.elapsed());
        let Self {
            owned,
            former,
            doubtful,
            arrived,
            ..
        } = self;
        self.awaited.retain(|partition_id, (since, waiting)| {
            let record = snapshot.ownerships.get(partition_id);
            let (Some(record), Some(version)) = (record, owned.get_mut(partition_id)) else {
                return false;
            };
            // If a renewal of ours may have landed unseen, a new version is no word that it is time to begin.
            let is_doubtful = doubtful.remove(partition_id).is_some();
            let is_ours = record
                .owner_id
                .as_ref()
                .is_some_and(|owner| owner.is_same_as(&self.shared.owner_id));
            if is_ours && record.etag != *version {
                let ours = std::mem::replace(version, record.etag.clone());
                former.note(partition_id.clone(), ours);
                if !is_doubtful {
                    arrived.insert(partition_id.clone());
                    return false;
                }
            }
            let is_over = waiting.is_over(snapshot, since.elapsed(), suspect_time, store_up_for);
            if is_over {
                arrived.insert(partition_id.clone());
            }
            !is_over
        });
    }

    fn note_passed_on(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        for (partition_id, record) in &snapshot.ownerships {
            let was_ours =
                self.owned.contains_key(partition_id) || self.contested.contains(partition_id);
            let is_passed_on = record
                .owner_id
                .as_ref()
                .is_some_and(|owner_id| is_waiting(&self.shared, owner_id));
            if was_ours && is_passed_on {
                let awaited = self.awaited.get(partition_id);
                let waits_for = awaited.map(|(_, waiting)| waiting.from.clone());
                self.passed_on
                    .insert(partition_id.clone(), (now, waits_for));
            }
        }
    }

    /// Lets the handler finish with what others of our kind have claimed. They wait for that, so it is no loss.
    fn make_way(&mut self, snapshot: &Snapshot) {
        let Some(promise) = promised_suspect_time(&self.shared.owner_id) else {
            return;
        };
        // What we have not looked at for that long may have been claimed, and read, long ago.
        if self
            .listed
            .is_none_or(|listed| listed.elapsed() > promise.mul_f64(0.9))
        {
            return;
        }
        for (partition_id, record) in &snapshot.ownerships {
            let Some(owner_id) = &record.owner_id else {
                continue;
            };
            if !is_waiting(&self.shared, owner_id) {
                continue;
            }
            let heir = Heir {
                owner_id: owner_id.clone(),
                etag: record.etag.clone(),
                waits_until: Instant::now() + promise.saturating_sub(snapshot.age(record)),
            };
            if let Some(signal) = self.signals.get(partition_id) {
                if signal.reason().is_none() {
                    signal.finish();
                    self.heirs.insert(partition_id.clone(), heir);
                }
            } else if !self.awaited.contains_key(partition_id)
                && (self.owned.remove(partition_id).is_some()
                    || self.contested.contains(partition_id))
            {
                // Ours, but nobody reads it, and from now on nobody here may begin to.
                self.doubtful.insert(partition_id.clone(), None);
                let shared = Arc::clone(&self.shared);
                self.closing
                    .spawn(hand_over(shared, partition_id.clone(), heir, None, true));
            }
        }
    }

    fn plan(&mut self, snapshot: &Snapshot) -> Plan {
        let rule = self.rule();
        let awaited: BTreeSet<_> = self.awaited.keys().cloned().collect();
        let handing_over: BTreeSet<_> = self.heirs.keys().cloned().collect();
        let doubtful: BTreeSet<_> = self.doubtful.keys().cloned().collect();
        let standing = Standing {
            owner_id: &self.shared.owner_id,
            held: &self.owned,
            awaited: &awaited,
            handing_over: &handing_over,
            doubtful: &doubtful,
            running_for: self.begun.elapsed(),
            store_up_for: self.store.up_since.map(|since| since.elapsed()),
        };
        let mut plan = balance::plan(snapshot, &standing, &mut self.memory, &rule);
        self.leave_to_others(&mut plan);
        if plan.is_suspicious {
            self.store.up_since = Some(Instant::now());
        }
        if !plan.twins.is_empty() {
            let owner_id = self.shared.owner_id.clone();
            self.reporter
                .report(ProcessingError::DuplicateOwnerId { owner_id });
        }
        if plan.has_foreigners
            && self.shared.options.is_hasty_with_others()
            && !std::mem::replace(&mut self.is_told_of_foreigners, true)
        {
            tracing::warn!(
                target: telemetry::LOAD_BALANCER,
                expiration = ?rule.ownership_expiration,
                "partition_ownership_expiration is less than 90 s in a group with processors that may renew every 30 s: \
                 a slow one of them can be robbed"
            );
        }
        let lingers = plan.has_kin
            && !self.shared.options.linger.is_zero()
            && !self.shared.options.keep_ownership_on_stop
            && leaving_id(&self.shared.owner_id).is_some();
        self.lingers.store(lingers, Ordering::Relaxed);
        tracing::debug!(
            target: telemetry::LOAD_BALANCER,
            owner_id = %self.shared.owner_id,
            partitions = snapshot.partitions.len(), owned = plan.keep.len(),
            renew = plan.renew.len(), claim = plan.claim.len(), steal = plan.steal.len(),
            "load balancing"
        );
        plan
    }

    /// What was given back because nothing came is not claimed again at once.
    fn leave_to_others(&self, plan: &mut Plan) {
        let now = Instant::now();
        let is_left = |claim: &Claim| {
            let held_off = self.held_off.get(&claim.partition_id);
            held_off.is_some_and(|held_off| held_off.is_given_back && held_off.until > now)
        };
        for claims in [&mut plan.renew, &mut plan.claim, &mut plan.steal] {
            claims.retain(|claim| !is_left(claim));
        }
    }

    /// Writes what was planned. Afterwards `owned` is what the store confirmed, and what it could not deny.
    async fn act(&mut self, plan: &Plan) -> Outcome {
        self.owned
            .retain(|partition_id, _| plan.keep.contains(partition_id));
        self.doubtful.retain(|partition_id, _| {
            // Renewed now, or not ours as far as anybody can see.
            plan.keep.contains(partition_id)
        });
        let rule = self.rule();
        // Renewals always go out; what is new waits for the next cycle if the store is so slow that they would be late.
        let budget = (rule.ownership_expiration / 4).min(rule.suspect_time / 2);
        let latest_claim = Instant::now() + budget;
        let renewals = plan.renew.iter().map(|claim| (claim.clone(), None));
        let new = plan.claim.iter().chain(&plan.steal);
        let new = new.map(|claim| (claim.clone(), Some(latest_claim)));
        let all: Vec<_> = renewals.chain(new).collect();
        let shared = Arc::clone(&self.shared);
        let mut writes = stream::iter(all)
            .map(|(claim, latest)| write(Arc::clone(&shared), claim, latest))
            .buffer_unordered(MAX_CONCURRENT_WRITES);
        let (shutdown, stopper) = (self.shutdown.clone(), self.shared.stopper.clone());
        let grace = async move {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_GRACE.min(stopper.left())).await;
        };
        tokio::pin!(grace);
        let mut outcome = Outcome::default();
        let (mut answered, mut failed) = (0_usize, 0_usize);
        loop {
            let next = tokio::select! {
                biased;
                next = writes.next() => next,
                () = &mut grace => {
                    let all = plan.renew.iter().chain(&plan.claim).chain(&plan.steal);
                    for claim in all {
                        self.doubt(claim.clone());
                    }
                    return outcome;
                }
            };
            let Some((claim, sent, result)) = next else {
                break;
            };
            let Some(result) = result else {
                continue;
            };
            match result {
                Ok(WriteOutcome::Written(written)) => {
                    answered += 1;
                    let is_steal = plan.steal.contains(&claim);
                    self.written(claim, written.etag, sent, is_steal);
                }
                Ok(WriteOutcome::Lost) => {
                    answered += 1;
                    outcome.lost += 1;
                    // What we lost to may be a write of our own, or this very one if it was sent twice; the next
                    // listing tells.
                    let id = claim.partition_id.clone();
                    if !self.awaited.contains_key(&id) {
                        if !self.doubtful.contains_key(&id) {
                            self.owned.remove(&id);
                        }
                        self.doubt(claim);
                        if !self.owned.contains_key(&id) {
                            self.contest(id);
                        }
                    }
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    failed += 1;
                    self.doubt(claim);
                    self.reporter.report(ProcessingError::LoadBalancing(error));
                }
                Err(error) => {
                    failed += 1;
                    self.reporter.report(ProcessingError::LoadBalancing(error));
                }
            }
        }
        if answered > 0 || failed == 0 {
            self.store.proven = Some(Instant::now());
        }
        outcome
    }

    /// A write of ours may have taken effect unseen. If it did, the next renewal finds out, and still has to wait for the
    /// owner before.
    fn doubt(&mut self, claim: Claim) {
        let waits_for = self.doubtful.entry(claim.partition_id).or_default();
        if claim.waits_for.is_some() {
            *waits_for = claim.waits_for;
        }
    }

    /// Somebody has written a record of ours. One of our kind waits until we have made way; anybody else displaces our
    /// receiver. Either way the link is the only proof now.
    fn contest(&mut self, partition_id: PartitionId) {
        if let Some(fence) = self.fences.get(&partition_id) {
            fence.record_is_lost();
            self.contested.insert(partition_id);
        }
    }

    fn written(&mut self, claim: Claim, etag: ETag, sent: Sent, is_steal: bool) {
        let Claim {
            partition_id,
            waits_for,
            condition,
        } = claim;
        let options = &self.shared.options;
        let (policy, expiration) = (
            options.unproven_ownership,
            options.partition_ownership_expiration,
        );
        let lease = &self.shared.lease;
        self.fences
            .entry(partition_id.clone())
            .or_insert_with(|| Arc::new(Fence::new(policy, Arc::clone(lease), expiration)))
            .confirm(sent);
        let doubt = self.doubtful.remove(&partition_id);
        let waits_for = waits_for.or_else(|| doubt.flatten());
        if let WriteCondition::Matches(before) = condition {
            self.former.note(partition_id.clone(), before);
        }
        if self.owned.insert(partition_id.clone(), etag).is_none() {
            // Whoever displaced us before read what was not ours any more. Whoever had us refused still does: a foreign
            // processor that takes the record from us and loses it again changes nothing about that.
            if (self.held_off.get(&partition_id)).is_some_and(|held_off| !held_off.is_refused) {
                self.held_off.remove(&partition_id);
            }
            self.claimed.insert(partition_id.clone(), Instant::now());
            self.shared.board.balancing.claimed(is_steal);
            tracing::info!(
                target: telemetry::LOAD_BALANCER,
                %partition_id, owner_id = %self.shared.owner_id,
                "partition claimed"
            );
        }
        if let Some(from) = waits_for {
            self.awaited
                .insert(partition_id, (Instant::now(), Waiting::new(from)));
        }
    }

    fn warn_if_slow(&self, took: Duration) {
        let rule = self.rule();
        let limit = rule.suspect_time.min(rule.ownership_expiration);
        if took > limit.mul_f64(0.7) {
            tracing::warn!(
                target: telemetry::LOAD_BALANCER,
                ?took, ?limit,
                "a load-balancing cycle took most of the time after which others take this processor for dead"
            );
        }
    }
}

/// How often to look for what others of our kind write for us, at most: a quarter of the quick pace of cycles.
pub(super) fn look_every(interval: Duration) -> Duration {
    LOOK_EVERY.min(interval / 8)
}

/// Writes our name, unless it is too late for that.
async fn write(
    shared: Arc<Shared>,
    claim: Claim,
    latest: Option<Instant>,
) -> (Claim, Sent, Option<Result<WriteOutcome, StoreError>>) {
    let sent = Sent::now();
    if latest.is_some_and(|latest| Instant::now() >= latest) {
        return (claim, sent, None);
    }
    let outcome = shared
        .store
        .claim_ownership(
            &shared.scope,
            &claim.partition_id,
            Some(&shared.owner_id),
            &claim.condition,
        )
        .await;
    (claim, sent, Some(outcome))
}
