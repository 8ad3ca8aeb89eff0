//! How often to try again and how long to wait before. Pure: chance comes in as an argument.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use rand::{Rng, RngExt};

/// How the waits between tries grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryMode {
    /// Each is twice the one before, up to a limit. The default, as in .NET, Java, Python, Go and Rust.
    #[default]
    Exponential,
    /// All are the same.
    Fixed,
}

/// How an operation is tried again that failed in a way that may pass ([`TransportError::is_transient`],
/// [`StoreError::is_transient`]). Names and meaning are those of the other SDKs.
///
/// | where | what counts | defaults that differ |
/// |---|---|---|
/// | [`EventHubConsumerClient`], its properties | all | |
/// | [`BlobCheckpointStoreOptions::retry`], each request | all; an operation has a limit over all of its tries as well | 1 retry, after 0.25 s, 1 s at most; 5 s for a try |
/// | [`EventHubConsumerClient::receive`] | mode and delays | |
///
/// What is received has no last try: a processor opens receivers, reads records and writes checkpoints again until it is
/// stopped, with the waits of [`ProcessorOptions`], and tells `on_error` of each failure. [`AmqpTransport`] and
/// [`AmqpSender`] try once; their callers decide.
///
/// Waits are drawn from the upper half of what they may be, so that those who failed together do not come back together.
/// Whoever is told to wait waits at least that long: `Retry-After` of the store, and 4 s where Event Hubs is busy; up to
/// `max_delay`, though: no peer decides that nothing happens for an hour.
///
/// [`AmqpSender`]: crate::transport::AmqpSender
/// [`AmqpTransport`]: crate::AmqpTransport
/// [`BlobCheckpointStoreOptions::retry`]: crate::checkpoint::BlobCheckpointStoreOptions::retry
/// [`EventHubConsumerClient`]: crate::EventHubConsumerClient
/// [`EventHubConsumerClient::receive`]: crate::EventHubConsumerClient::receive
/// [`ProcessorOptions`]: crate::ProcessorOptions::retry_delay
/// [`StoreError::is_transient`]: crate::StoreError::is_transient
/// [`TransportError::is_transient`]: crate::TransportError::is_transient
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryOptions {
    /// How the waits grow. Default: [`Exponential`](RetryMode::Exponential).
    pub mode: RetryMode,
    /// Tries after the first. Zero: none. Default: 3, as in .NET, Java, Python, Go and JS.
    pub max_retries: u32,
    /// The first wait. Default: 0.8 s, as in .NET, Java and Python.
    pub delay: Duration,
    /// The longest wait. Default: 60 s, as in .NET and Java.
    pub max_delay: Duration,
    /// How long one try may take. Default: 60 s, as in all SDKs that have it.
    pub try_timeout: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            mode: RetryMode::Exponential,
            max_retries: 3,
            delay: Duration::from_millis(800),
            max_delay: Duration::from_secs(60),
            try_timeout: Duration::from_secs(60),
        }
    }
}

impl RetryOptions {
    /// Sets [`mode`](Self::mode).
    #[must_use]
    pub fn with_mode(mut self, mode: RetryMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets [`max_retries`](Self::max_retries).
    #[must_use]
    pub fn with_max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// Sets [`delay`](Self::delay) and [`max_delay`](Self::max_delay).
    #[must_use]
    pub fn with_delay(mut self, first: Duration, max: Duration) -> Self {
        self.delay = first;
        self.max_delay = max;
        self
    }

    /// Sets [`try_timeout`](Self::try_timeout).
    #[must_use]
    pub fn with_try_timeout(mut self, try_timeout: Duration) -> Self {
        self.try_timeout = try_timeout;
        self
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.mode, self.delay, self.max_delay)
    }
}

/// Waits with jitter: each is drawn from the upper half of a span that doubles up to a limit, or stays.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    mode: RetryMode,
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(mode: RetryMode, initial: Duration, max: Duration) -> Self {
        Self {
            mode,
            initial,
            max,
            failures: 0,
        }
    }

    /// The wait before the next try; `asked`: how long the other side asked to wait.
    pub(crate) fn next_delay(
        &mut self,
        asked: Option<Duration>,
        rng: &mut (impl Rng + ?Sized),
    ) -> Duration {
        let doublings = match self.mode {
            RetryMode::Exponential => self.failures.min(20),
            RetryMode::Fixed => 0,
        };
        let span = self.initial.saturating_mul(1 << doublings).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let own = span.mul_f64(rng.random_range(0.5..=1.0));
        match asked {
            None => own,
            // A little more than that: all who were told the same would come back together.
            Some(asked) => own.max(asked.min(self.max).mul_f64(rng.random_range(1.0..=1.1))),
        }
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

    const EXPONENTIAL: RetryMode = RetryMode::Exponential;

    #[test]
    fn delays_double_up_to_the_limit_and_start_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(
            EXPONENTIAL,
            Duration::from_millis(100),
            Duration::from_secs(1),
        );
        for span in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay(None, &mut rng);
            let span = Duration::from_millis(span);
            assert!(delay >= span / 2 && delay <= span, "{delay:?} of {span:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay(None, &mut rng) <= Duration::from_millis(100));
    }

    #[test]
    fn fixed_delays_stay_and_differ_all_the_same() {
        let mut rng = StdRng::seed_from_u64(1);
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(RetryMode::Fixed, second, Duration::from_secs(60));
        let delays: Vec<_> = (0..20)
            .map(|_| backoff.next_delay(None, &mut rng))
            .collect();
        assert!(delays.iter().all(|d| *d >= second / 2 && *d <= second));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }

    #[test]
    fn who_is_told_to_wait_waits_but_not_for_ever() {
        let mut rng = StdRng::seed_from_u64(1);
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(60));
        for (asked, least, most) in [(4, 4.0, 4.4), (0, 0.05, 0.1), (3600, 60.0, 66.0)] {
            let mut backoff = Backoff::new(EXPONENTIAL, first, max);
            let delay = backoff.next_delay(Some(Duration::from_secs(asked)), &mut rng);
            let delay = delay.as_secs_f64();
            assert!(delay >= least && delay <= most, "{delay} of {asked}");
        }
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(EXPONENTIAL, Duration::from_secs(1), Duration::MAX);
        for _ in 0..1000 {
            let _ = backoff.next_delay(Some(Duration::from_secs(1)), &mut rng);
        }
    }
}
