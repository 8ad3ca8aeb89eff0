//! How the way to the store is: slow, lossy, down.

use rand::{Rng, RngExt as _};

use crate::history::Time;

/// Conditions for one client, or for all. Rates are in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Every request fails until then, and none arrives.
    pub(crate) is_down: bool,
    /// Factor on all latencies.
    pub(crate) slow: u32,
    /// Requests answered by an error, not applied.
    pub(crate) failed: u32,
    /// Requests that never arrive and are never answered.
    pub(crate) lost_requests: u32,
    /// Requests that are applied and never answered.
    pub(crate) lost_replies: u32,
    /// Requests that are never answered and applied many seconds later.
    pub(crate) late: u32,
    /// Requests that are applied twice; the answer is that to the second time.
    pub(crate) repeated: u32,
    /// Listings show a state that is up to this many milliseconds old.
    pub(crate) stale_ms: Time,
}

/// No request is longer on its way, in milliseconds.
pub(crate) const LATEST: Time = 60_000;

impl Default for Weather {
    fn default() -> Self {
        Self {
            is_down: false,
            slow: 1,
            failed: 0,
            lost_requests: 0,
            lost_replies: 0,
            late: 0,
            repeated: 0,
            stale_ms: 0,
        }
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    Failed,
    Repeated,
    LostRequest,
    LostReply,
    /// Applied after this many milliseconds, never answered.
    Late(Time),
}

impl Weather {
    /// The worse of two conditions, in each respect.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            is_down: self.is_down || other.is_down,
            slow: self.slow.max(other.slow),
            failed: self.failed.max(other.failed),
            lost_requests: self.lost_requests.max(other.lost_requests),
            lost_replies: self.lost_replies.max(other.lost_replies),
            late: self.late.max(other.late),
            repeated: self.repeated.max(other.repeated),
            stale_ms: self.stale_ms.max(other.stale_ms),
        }
    }

    pub(crate) fn fate(self, rng: &mut impl Rng) -> Fate {
        if self.is_down {
            return Fate::Failed;
        }
        // Nothing is drawn in fair weather, so that a fault changes nothing before it begins.
        if self.failed + self.lost_requests + self.lost_replies + self.late + self.repeated == 0 {
            return Fate::Delivered;
        }
        let mut roll = rng.random_range(0..1000);
        for (rate, fate) in [
            (self.failed, Fate::Failed),
            (self.lost_requests, Fate::LostRequest),
            (self.lost_replies, Fate::LostReply),
            (self.late, Fate::Late(rng.random_range(5_000..LATEST))),
            (self.repeated, Fate::Repeated),
        ] {
            if roll < rate {
                return fate;
            }
            roll -= rate;
        }
        Fate::Delivered
    }
}
