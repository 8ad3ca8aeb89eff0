//! Whether a partition can still be ours: the two-proof rule.
//!
//! Proof by lease: a write of ours to the ownership records was confirmed, and was *sent* so short a time ago that nobody
//! may have judged us dead since. Proof by link: our receiver is attached, and while it is, nobody else's can be. With
//! either the handler may be called. Without both, another processor may be reading already.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::options::UnprovenOwnership;

/// Silence after which a link proves nothing: AMQP idle timeouts are a minute at most.
const LINK_SILENCE: Duration = Duration::from_secs(60);

/// When a request was sent, on two clocks: the monotonic one stands still while a virtual machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) monotonic: Instant,
    wall: SystemTime,
}

impl Sent {
    pub(super) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// A wall clock that was set back counts for nothing, one that was set forward costs a proof until the next write.
    fn since(&self, before: &Self) -> Duration {
        self.monotonic
            .saturating_duration_since(before.monotonic)
            .max(self.wall.duration_since(before.wall).unwrap_or_default())
    }
}

/// What the store confirmed.
#[derive(Debug)]
pub(super) struct Lease {
    span: Duration,
    confirmed: Mutex<Option<Confirmed>>,
}

/// Writes none of which came too late after the one before.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    first: Sent,
    last: Sent,
}

impl Lease {
    /// A lease that others respect for `term` after a write.
    pub(super) fn new(term: Duration) -> Self {
        // A margin for their clocks' resolution and for the way of a request.
        let margin = (term / 10).max(Duration::from_secs(2)).min(term / 4);
        Self {
            span: term - margin,
            confirmed: Mutex::default(),
        }
    }

    /// Notes a confirmed write.
    pub(super) fn confirm(&self, sent: Sent) {
        let mut confirmed = self.lock();
        match &mut *confirmed {
            Some(Confirmed { last, .. }) if last.monotonic >= sent.monotonic => {}
            Some(Confirmed { last, .. }) if sent.since(last) < self.span => *last = sent,
            _ => {
                *confirmed = Some(Confirmed {
                    first: sent,
                    last: sent,
                });
            }
        }
    }

    fn revoke(&self) {
        *self.lock() = None;
    }

    fn holding(&self, now: &Sent) -> Option<Confirmed> {
        self.lock()
            .filter(|confirmed| now.since(&confirmed.last) < self.span)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Confirmed>> {
        // A panic cannot leave the value half written.
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proofs for one partition.
#[derive(Debug)]
pub(super) struct Fence {
    policy: UnprovenOwnership,
    /// Any of our records: what our own kind goes by.
    owner: Arc<Lease>,
    /// The partition's record: what everybody else goes by.
    record: Lease,
    link: Mutex<Link>,
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Down,
    Up,
    /// Up, and known to have shown life then.
    LastSeen(Sent),
}

impl Fence {
    pub(super) fn new(policy: UnprovenOwnership, owner: Arc<Lease>, expiration: Duration) -> Self {
        Self {
            policy,
            owner,
            record: Lease::new(expiration),
            link: Mutex::new(Link::Down),
        }
    }

    /// Notes a confirmed write of the partition's record.
    pub(super) fn confirm(&self, sent: Sent) {
        self.owner.confirm(sent);
        self.record.confirm(sent);
    }

    /// Somebody else has written the record: from now on only the link proves anything.
    pub(super) fn record_is_lost(&self) {
        self.record.revoke();
    }

    /// Notes that the receiver is attached, and how long ago it showed life if it knows.
    pub(super) fn link_is_up(&self, silence: Option<Duration>) {
        let link = match silence {
            None => Link::Up,
            Some(silence) => {
                let now = Sent::now();
                Link::LastSeen(Sent {
                    monotonic: now.monotonic.checked_sub(silence).unwrap_or(now.monotonic),
                    wall: now.wall.checked_sub(silence).unwrap_or(now.wall),
                })
            }
        };
        *self.link() = link;
    }

    pub(super) fn link_is_down(&self) {
        *self.link() = Link::Down;
    }

    /// Whether the lease alone proves that the partition is ours.
    ///
    /// INVARIANT: a record counts only if it was written after our last silence. While we were silent anybody could
    /// take it, and the renewal of another record, which ends the silence, says nothing about this one.
    pub(super) fn lease_holds(&self) -> bool {
        self.lease_held(&Sent::now())
    }

    /// The same for who knows the time: this is asked for each event, and what costs is the clocks.
    pub(super) fn lease_held(&self, now: &Sent) -> bool {
        let (Some(owner), Some(record)) = (self.owner.holding(now), self.record.holding(now))
        else {
            return false;
        };
        record.last.monotonic >= owner.first.monotonic
    }

    /// Whether the handler may be called and a checkpoint written.
    pub(super) fn holds(&self) -> bool {
        let now = Sent::now();
        self.policy == UnprovenOwnership::Continue || self.lease_held(&now) || self.link_held(&now)
    }

    fn link_held(&self, now: &Sent) -> bool {
        match *self.link() {
            Link::Down => false,
            Link::Up => true,
            Link::LastSeen(at) => now.since(&at) < LINK_SILENCE,
        }
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(policy: UnprovenOwnership) -> Fence {
        let owner = Arc::new(Lease::new(Duration::from_secs(25)));
        Fence::new(policy, owner, Duration::from_secs(120))
    }

    #[tokio::test(start_paused = true)]
    async fn either_proof_is_enough_and_without_both_nothing_is() {
        let fence = fence(UnprovenOwnership::Pause);
        assert!(!fence.holds(), "before the first write");
        fence.confirm(Sent::now());
        tokio::time::advance(Duration::from_secs(22)).await;
        assert!(fence.holds());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!fence.holds(), "25 s less a margin of 2.5 s");
        fence.link_is_up(None);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(
            fence.holds(),
            "a link that cannot tell is up until it fails"
        );
        fence.link_is_up(Some(Duration::from_secs(59)));
        assert!(fence.holds());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!fence.holds(), "silent for a minute");
        fence.link_is_up(None);
        fence.link_is_down();
        assert!(!fence.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_not_renewed_is_lost_to_others_even_if_its_neighbours_are() {
        let fence = fence(UnprovenOwnership::Pause);
        fence.confirm(Sent::now());
        for _ in 0..11 {
            tokio::time::advance(Duration::from_secs(10)).await;
            fence.owner.confirm(Sent::now());
        }
        assert!(!fence.lease_holds(), "110 s of 120 s less a margin of 12 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_after_a_silence_proves_nothing_about_other_records() {
        let lost = fence(UnprovenOwnership::Pause);
        let kept = Fence::new(
            UnprovenOwnership::Pause,
            Arc::clone(&lost.owner),
            Duration::from_secs(120),
        );
        lost.confirm(Sent::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        kept.confirm(Sent::now());
        assert!(lost.lease_holds(), "no silence so far");
        tokio::time::advance(Duration::from_secs(23)).await;
        kept.confirm(Sent::now());
        assert!(kept.lease_holds());
        assert!(!lost.lease_holds(), "taken, perhaps, while we were silent");
        lost.confirm(Sent::now());
        assert!(lost.lease_holds());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_counts_from_when_it_was_asked() {
        let fence = fence(UnprovenOwnership::Pause);
        let sent = Sent::now();
        tokio::time::advance(Duration::from_secs(30)).await;
        fence.confirm(sent);
        assert!(!fence.lease_holds());
    }

    #[tokio::test(start_paused = true)]
    async fn who_chooses_to_continue_needs_no_proof() {
        assert!(fence(UnprovenOwnership::Continue).holds());
    }
}
