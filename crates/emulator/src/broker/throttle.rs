//! Throughput units: how much an event hub takes and gives.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock;

/// PROTOCOL: one unit takes 1 MB or 1000 events a second, whichever is first, and gives 2 MB.
const BYTES_IN: u64 = 1_000_000;
const EVENTS_IN: u64 = 1000;
const BYTES_OUT: u64 = 2_000_000;

/// The allowance of an event hub.
#[derive(Debug)]
pub(crate) struct Throttle {
    incoming: Mutex<(Bucket, Bucket)>,
    outgoing: Mutex<Bucket>,
}

impl Throttle {
    pub(super) fn new(units: u32) -> Self {
        let units = u64::from(units);
        Self {
            incoming: Mutex::new((
                Bucket::new(units * BYTES_IN),
                Bucket::new(units * EVENTS_IN),
            )),
            outgoing: Mutex::new(Bucket::new(units * BYTES_OUT)),
        }
    }

    /// Whether events may come in now; if so they are counted.
    pub(crate) fn admit(&self, events: usize, bytes: usize, now: Instant) -> bool {
        let mut incoming = lock(&self.incoming);
        let (by_bytes, by_events) = &mut *incoming;
        let may = by_bytes.wait(now).is_none() && by_events.wait(now).is_none();
        if may {
            by_bytes.take(bytes as u64);
            by_events.take(events as u64);
        }
        may
    }

    /// How long until events may go out.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        lock(&self.outgoing).wait(now)
    }

    /// Counts events that go out.
    pub(crate) fn give(&self, bytes: usize) {
        lock(&self.outgoing).take(bytes as u64);
    }
}

/// A second's worth of allowance. One thing larger than what is left may still pass; what comes
/// next then waits for the debt.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    left: i128,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            left: i128::from(per_second),
            filled: None,
        }
    }

    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let filled = *self.filled.get_or_insert(now);
        let rate = i128::from(self.per_second);
        let earned = rate * i128::from(elapsed_us(filled, now)) / 1_000_000;
        if earned > 0 {
            self.left = (self.left + earned).min(rate);
            // Not `now`: the rest of the time counts for the next unit.
            let used = u64::try_from(earned * 1_000_000 / rate).unwrap_or(0);
            self.filled = Some(filled + Duration::from_micros(used));
        }
        if self.left > 0 {
            return None;
        }
        let missing = (1 - self.left) * 1_000_000 / rate;
        // At least a millisecond: timers are no finer.
        let us = u64::try_from(missing).unwrap_or(u64::MAX).max(1000);
        Some(Duration::from_micros(us))
    }

    fn take(&mut self, amount: u64) {
        self.left -= i128::from(amount);
    }
}

fn elapsed_us(from: Instant, to: Instant) -> u64 {
    let elapsed = to.saturating_duration_since(from).as_micros();
    u64::try_from(elapsed).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_gives_what_the_units_say() {
        let throttle = Throttle::new(2);
        let start = Instant::now();
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            let admitted = (0..5000).filter(|_| throttle.admit(1, 100, now)).count();
            assert_eq!(admitted, 2000);
        }
        let later = start + Duration::from_secs(60);
        let admitted = (0..100)
            .filter(|_| throttle.admit(1, 100_000, later))
            .count();
        assert_eq!(admitted, 20, "by bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_out_waits_for_its_debt() {
        let throttle = Throttle::new(1);
        let now = Instant::now();
        assert_eq!(throttle.wait(now), None);
        throttle.give(3_000_000);
        let wait = throttle.wait(now).unwrap();
        assert!(wait.abs_diff(Duration::from_millis(500)) < Duration::from_millis(2));
        assert_eq!(throttle.wait(now + wait + Duration::from_millis(1)), None);
    }
}
