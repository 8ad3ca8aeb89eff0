//! When a partition counts as stalled, and what to try next. Pure.
//!
//! A partition that is read, whose handler is free, and of which the service holds events that have not come, moves on
//! by itself or is helped: first its credit is told again, then its receiver is opened anew, then on another connection,
//! and in the end the partition is given back. Each step has `stall_timeout` to show an effect (ADR-0018).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{ProcessingError, StallReason, StallRemedy};

/// What the pump is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::processor) enum Order {
    /// Tell the service once more how many events it may send. Costs nothing, so a suspicion is enough.
    Nudge,
    Treat(Stall),
}

/// A stall as the application is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::processor) struct Stall {
    pub(in crate::processor) reason: StallReason,
    pub(in crate::processor) quiet_for: Duration,
    pub(in crate::processor) remedy: StallRemedy,
}

impl From<Stall> for ProcessingError {
    fn from(stall: Stall) -> Self {
        Self::Stalled {
            reason: stall.reason,
            quiet_for: stall.quiet_for,
            remedy: stall.remedy,
        }
    }
}

/// A partition at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// Grows with everything that is received, delivered and done.
    pub(super) progress: u64,
    /// Whether nothing but the service keeps events from coming: a receiver is open, no hook is at work, and nobody has
    /// paused the partition.
    pub(super) is_free: bool,
    /// Whether the service holds events behind the last one received.
    pub(super) is_behind: bool,
    /// Whether the receiver that is open has brought any.
    pub(super) has_received: bool,
}

/// Watches one partition.
#[derive(Debug)]
pub(super) struct Watch {
    progress: u64,
    /// Since when nothing has come although it could.
    quiet_since: Instant,
    /// Since when it is known that something should have come.
    behind_since: Option<Instant>,
    /// What was tried last, and when.
    tried: Option<(Order, Instant)>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            progress: 0,
            quiet_since: now,
            behind_since: None,
            tried: None,
        }
    }

    /// Whether something has been tried beyond the first nudge and nothing has come since.
    pub(super) fn is_stalled(&self) -> bool {
        matches!(self.tried, Some((Order::Treat(_), _)))
    }

    /// How long nothing has come although it could.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.quiet_since)
    }

    /// Looks at the partition. `Some`: what to do now.
    ///
    /// `behind_since` is kept by the service's word, not by ours: an idle partition is never behind, so it is never
    /// touched, however long nothing comes.
    pub(super) fn look(&mut self, sight: Sight, now: Instant, timeout: Duration) -> Option<Order> {
        if sight.progress != self.progress {
            *self = Self {
                progress: sight.progress,
                ..Self::new(now)
            };
        }
        if !sight.is_behind {
            self.behind_since = None;
            self.tried = None;
            if !sight.is_free {
                self.quiet_since = now;
            }
            return None;
        }
        if !sight.is_free {
            // A step has its time while the partition could move on, not while a hook or a pause holds it.
            self.quiet_since = now;
            self.behind_since = None;
            if let Some((_, at)) = &mut self.tried {
                *at = now;
            }
            return None;
        }
        let behind_since = *self.behind_since.get_or_insert(now);
        let Some((last, at)) = self.tried else {
            return (self.quiet_for(now) >= timeout / 2).then(|| self.try_now(Order::Nudge, now));
        };
        let (patience, remedy) = match last {
            // Half of the time has passed before the nudge.
            Order::Nudge => (timeout / 2, StallRemedy::Reopen),
            Order::Treat(Stall { remedy, .. }) => match remedy {
                StallRemedy::Reopen => (timeout, StallRemedy::Reconnect),
                StallRemedy::Reconnect | StallRemedy::Release => (timeout, StallRemedy::Release),
            },
        };
        let has_had_its_time = now.saturating_duration_since(at) >= patience;
        let is_sure = now.saturating_duration_since(behind_since) >= patience.min(timeout / 2);
        (has_had_its_time && is_sure && self.quiet_for(now) >= timeout).then(|| {
            let stall = Stall {
                reason: if sight.has_received {
                    StallReason::Stopped
                } else {
                    StallReason::NeverStarted
                },
                quiet_for: self.quiet_for(now),
                remedy,
            };
            self.try_now(Order::Treat(stall), now)
        })
    }

    fn try_now(&mut self, order: Order, now: Instant) -> Order {
        self.tried = Some((order, now));
        order
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests begin somewhere")]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(120);

    const STUCK: Sight = Sight {
        progress: 7,
        is_free: true,
        is_behind: true,
        has_received: true,
    };

    /// What a partition that looks the same each second is treated with, and after how many seconds.
    fn treated(sight: impl Fn(u64) -> Sight, seconds: u64) -> Vec<(u64, Order)> {
        let begun = Instant::now();
        let mut watch = Watch::new(begun);
        (0..seconds)
            .filter_map(|second| {
                let now = begun + Duration::from_secs(second);
                let order = watch.look(sight(second), now, TIMEOUT)?;
                Some((second, order))
            })
            .collect()
    }

    fn remedies(orders: &[(u64, Order)]) -> Vec<(u64, Option<StallRemedy>)> {
        let remedy = |order| match order {
            Order::Nudge => None,
            Order::Treat(Stall { remedy, .. }) => Some(remedy),
        };
        orders
            .iter()
            .map(|(at, order)| (*at, remedy(*order)))
            .collect()
    }

    #[test]
    fn each_step_has_its_time() {
        let orders = treated(|_| STUCK, 600);
        let expected = [
            (60, None),
            (120, Some(StallRemedy::Reopen)),
            (240, Some(StallRemedy::Reconnect)),
            (360, Some(StallRemedy::Release)),
            (480, Some(StallRemedy::Release)),
        ];
        assert_eq!(remedies(&orders), expected);
        let Order::Treat(stall) = orders[2].1 else {
            panic!("{orders:?}")
        };
        assert_eq!(stall.quiet_for, Duration::from_secs(240));
        assert_eq!(stall.reason, StallReason::Stopped);
    }

    #[test]
    fn an_idle_partition_is_never_touched() {
        let idle = Sight {
            is_behind: false,
            ..STUCK
        };
        assert_eq!(treated(|_| idle, 100_000), []);
    }

    #[test]
    fn an_event_that_came_just_now_is_waited_for() {
        // Idle for long, then something is enqueued.
        let orders = treated(
            |second| Sight {
                is_behind: second >= 1000,
                ..STUCK
            },
            1200,
        );
        assert_eq!(
            remedies(&orders),
            [
                (1000, None),
                (1060, Some(StallRemedy::Reopen)),
                (1180, Some(StallRemedy::Reconnect))
            ]
        );
    }

    #[test]
    fn who_works_or_waits_on_purpose_is_never_touched() {
        let busy = Sight {
            is_free: false,
            ..STUCK
        };
        assert_eq!(treated(|_| busy, 100_000), []);
        // Each call a minute, with moments in between.
        let slow = |second: u64| Sight {
            is_free: second.is_multiple_of(60),
            progress: second / 60,
            ..STUCK
        };
        assert_eq!(treated(slow, 100_000), []);
    }

    #[test]
    fn progress_begins_everything_anew() {
        let orders = treated(
            |second| Sight {
                progress: second / 130,
                ..STUCK
            },
            390,
        );
        let reopen = Some(StallRemedy::Reopen);
        assert_eq!(
            remedies(&orders),
            [
                (60, None),
                (120, reopen),
                (190, None),
                (250, reopen),
                (320, None),
                (380, reopen)
            ]
        );
    }

    #[test]
    fn a_pause_counts_for_no_step() {
        // Paused from the first remedy on, for an hour.
        let orders = treated(
            |second| Sight {
                is_free: !(121..3721).contains(&second),
                ..STUCK
            },
            3900,
        );
        assert_eq!(
            remedies(&orders),
            [
                (60, None),
                (120, Some(StallRemedy::Reopen)),
                (3840, Some(StallRemedy::Reconnect))
            ]
        );
    }
}
