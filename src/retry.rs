//! How long to wait before trying again. Pure: chance comes in as an argument.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential back-off with jitter: each wait is drawn from the upper half of a span that doubles up to a limit.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            failures: 0,
        }
    }

    /// The wait before the next try.
    pub(crate) fn next_delay(&mut self, rng: &mut (impl Rng + ?Sized)) -> Duration {
        let span = self
            .initial
            .saturating_mul(1 << self.failures.min(20))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        span.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Starts over: the last try succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for span in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay(&mut rng);
            let span = Duration::from_millis(span);
            assert!(delay >= span / 2 && delay <= span, "{delay:?} of {span:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= Duration::from_millis(100));
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..1000 {
            let _ = backoff.next_delay(&mut rng);
        }
    }
}
