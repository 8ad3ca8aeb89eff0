//! One load-balancing cycle: observe → plan → act → reconcile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::control::{Control, until};
use super::fence::{Fence, Sent};
use super::pump::Shared;
use crate::balance::{self, BalanceRule, Claim, Outcome, Plan, Snapshot, Standing, leaving_id};
use crate::checkpoint::{OwnershipListing, WriteOutcome};
use crate::error::{ProcessingError, StoreError};
use crate::model::ETag;
use crate::telemetry;

/// Ownership writes under way at once: enough that 1024 renewals fit into a cycle, few enough for any storage account.
pub(super) const MAX_CONCURRENT_WRITES: usize = 32;

/// How long a cycle may go on once the processor stops. What it leaves open is found by a listing at the end.
const STOP_GRACE: Duration = Duration::from_secs(1);

impl Control {
    /// One cycle. Returns how long to wait before the next.
    pub(super) async fn cycle(&mut self) -> Duration {
        let begun = Instant::now();
        let listing = self.shared.store.list_ownership(&self.shared.scope);
        let listing = match until(&self.shutdown, listing).await {
            Some(Ok(listing)) => listing,
            Some(Err(error)) => {
                // No view, no decision: what we own goes on being read.
                self.reporter.report(ProcessingError::LoadBalancing(error));
                let Self {
                    shared,
                    list_backoff,
                    ..
                } = self;
                return shared.draw(|rng| list_backoff.next_delay(rng));
            }
            None => return Duration::ZERO,
        };
        self.list_backoff.reset();
        self.judge_store();
        let snapshot = self.snapshot(listing);
        self.settle_awaited(&snapshot);
        let plan = self.plan(&snapshot);
        let outcome = self.act(&plan).await;
        self.reconcile();
        self.warn_if_slow(begun.elapsed());
        let rule = self.rule();
        let Self { shared, memory, .. } = self;
        shared.draw(|rng| memory.next_delay(&plan, outcome, &rule, rng))
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
        if self
            .store
            .proven
            .is_some_and(|proven| now - proven > patience)
        {
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
        Snapshot {
            partitions: self.partitions.clone(),
            ownerships: listing
                .ownerships
                .into_iter()
                .map(|ownership| (ownership.partition_id.clone(), ownership))
                .collect(),
            as_of: listing.as_of,
        }
    }

    /// Partitions that were handed over to us are ours to read once the owner before has written our name again.
    fn settle_awaited(&mut self, snapshot: &Snapshot) {
        let patience = self.shared.options.suspect_time();
        let owned = &mut self.owned;
        self.awaited.retain(|partition_id, since| {
            let record = snapshot.ownerships.get(partition_id);
            let (Some(record), Some(version)) = (record, owned.get_mut(partition_id)) else {
                return false;
            };
            let is_ours = record
                .owner_id
                .as_ref()
                .is_some_and(|owner| owner.is_same_as(&self.shared.owner_id));
            if is_ours && record.etag != *version {
                *version = record.etag.clone();
                return false;
            }
            since.elapsed() < patience
        });
    }

    fn plan(&mut self, snapshot: &Snapshot) -> Plan {
        let rule = self.rule();
        let awaited: BTreeSet<_> = self.awaited.keys().cloned().collect();
        let standing = Standing {
            owner_id: &self.shared.owner_id,
            held: &self.owned,
            awaited: &awaited,
            doubtful: &self.doubtful,
            store_up_for: self.store.up_since.map(|since| since.elapsed()),
        };
        let plan = balance::plan(snapshot, &standing, &mut self.memory, &rule);
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

    /// Writes what was planned. Afterwards `owned` is what the store confirmed, and what it could not deny.
    async fn act(&mut self, plan: &Plan) -> Outcome {
        self.owned
            .retain(|partition_id, _| plan.keep.contains(partition_id));
        self.doubtful.retain(|partition_id| {
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
        let shutdown = self.shutdown.clone();
        let grace = async move {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
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
                    self.doubtful.extend(all.map(|claim| claim.partition_id.clone()));
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
                    self.written(claim, written.etag, sent);
                }
                Ok(WriteOutcome::Lost) => {
                    answered += 1;
                    outcome.lost += 1;
                    // What we lost to may be a write of our own; the next listing tells.
                    if !self.doubtful.contains(&claim.partition_id) {
                        self.owned.remove(&claim.partition_id);
                    }
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    failed += 1;
                    self.doubtful.insert(claim.partition_id);
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
        outcome.is_waiting = !self.awaited.is_empty();
        outcome
    }

    fn written(&mut self, claim: Claim, etag: ETag, sent: Sent) {
        let Claim {
            partition_id,
            is_handed_over,
            ..
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
        self.doubtful.remove(&partition_id);
        if self.owned.insert(partition_id.clone(), etag).is_none() {
            tracing::info!(
                target: telemetry::LOAD_BALANCER,
                %partition_id, owner_id = %self.shared.owner_id,
                "partition claimed"
            );
        }
        if is_handed_over {
            self.awaited.insert(partition_id, Instant::now());
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
