//! How many events a partition may be sent: as many as fit, going by the sizes of those that came. Pure.

/// Size that events are reckoned with before any has come: the largest of most tiers. With the default limits the
/// first credit is eight events.
const FIRST_SIZE: usize = 1024 * 1024;

/// Weight of the newest event in the averages, at least: the older ones are forgotten over some hundred events.
const WEIGHT: f64 = 1.0 / 64.0;

/// Standard deviations that are kept free for events larger than the average.
const SPARE: f64 = 4.0;

/// The sizes of the events that came.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Events that count, the imagined first one among them.
    seen: f64,
    mean: f64,
    mean_square: f64,
}

impl Sizes {
    fn note(&mut self, len: usize) {
        self.seen += 1.0;
        let weight = (1.0 / self.seen).max(WEIGHT);
        let len = len as f64;
        self.mean += (len - self.mean) * weight;
        self.mean_square += (len * len - self.mean_square) * weight;
    }

    /// Events that very likely fit into so many bytes: `n` with `n × mean + 4 × deviation × √n ≤ bytes`.
    fn fitting(&self, bytes: usize) -> u32 {
        let mean = self.mean.max(1.0);
        let spare = SPARE * (self.mean_square - mean * mean).max(0.0).sqrt();
        let root = ((spare * spare + 4.0 * mean * bytes as f64).sqrt() - spare) / (2.0 * mean);
        // A float that is too large becomes the largest number.
        (root * root) as u32
    }
}

/// The credit of one link. Deliveries are counted from the attach on, modulo 2^32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    most_events: u32,
    most_bytes: usize,
    /// The largest that `most_bytes` has been: credit that was given by it may still be in use.
    ceiling: usize,
    sizes: Sizes,
    /// The delivery up to which the peer may send.
    limit: u32,
}

impl Credit {
    pub(super) fn new(most_events: u32, most_bytes: usize) -> Self {
        Self {
            most_events,
            most_bytes,
            ceiling: most_bytes,
            sizes: Sizes {
                seen: 1.0,
                mean: FIRST_SIZE as f64,
                mean_square: (FIRST_SIZE as f64).powi(2),
            },
            limit: 0,
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    pub(super) fn set_most_bytes(&mut self, bytes: usize) {
        self.most_bytes = bytes;
        self.ceiling = self.ceiling.max(bytes);
    }

    /// An event came.
    pub(super) fn note(&mut self, len: usize) {
        self.sizes.note(len);
    }

    /// Whether so many bytes are here that not one event more is taken. Credit is given so that this does not happen,
    /// but events may turn out larger than those before them.
    pub(super) fn is_overrun(&self, bytes: usize) -> bool {
        bytes > 0 && bytes >= self.ceiling
    }

    /// Moves the limit, if that is worth a frame. `held` bytes of `events` events are here, after `arrived` deliveries.
    /// Returns whether it was moved.
    pub(super) fn update(&mut self, arrived: u32, events: usize, held: usize) -> bool {
        let under_way = remaining(self.limit, arrived);
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let by_count = self.most_events.saturating_sub(events);
        let by_bytes = self.sizes.fitting(self.most_bytes.saturating_sub(held));
        // Whatever the limits are, one event must come through.
        let least = u32::from(held == 0 && events == 0);
        let wanted = by_count.min(by_bytes).max(least);
        let is_short = wanted > under_way && under_way <= wanted / 2;
        let is_far_too_much = under_way / 2 > wanted;
        if is_short || is_far_too_much {
            self.limit = arrived.wrapping_add(wanted);
        }
        is_short || is_far_too_much
    }
}

/// Deliveries up to `limit`; none if more have come.
pub(super) fn remaining(limit: u32, arrived: u32) -> u32 {
    let remaining = limit.wrapping_sub(arrived);
    // PROTOCOL: serial numbers (RFC 1982): the upper half is what lies behind.
    if remaining > u32::MAX / 2 {
        0
    } else {
        remaining
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * 1024;

    /// Lets the peer use all of its credit and the application take everything at once, again and again.
    fn run(credit: &mut Credit, rounds: usize, mut size: impl FnMut(u32) -> usize) -> (u32, usize) {
        let (mut arrived, mut most) = (0u32, 0);
        for _ in 0..rounds {
            credit.update(arrived, 0, 0);
            let mut held = 0;
            while remaining(credit.limit(), arrived) > 0 && !credit.is_overrun(held) {
                let len = size(arrived);
                credit.note(len);
                held += len;
                arrived = arrived.wrapping_add(1);
            }
            most = most.max(held);
        }
        credit.update(arrived, 0, 0);
        (remaining(credit.limit(), arrived), most)
    }

    #[test]
    fn it_starts_with_a_few_large_events_and_grows() {
        let mut credit = Credit::new(300, 8 * MIB);
        assert!(credit.update(0, 0, 0));
        assert_eq!(credit.limit(), 8);
        let (given, _) = run(&mut credit, 8, |_| KIB);
        assert_eq!(given, 300, "eight rounds are enough for the full credit");
    }

    #[test]
    fn large_events_stay_within_the_limit() {
        let mut credit = Credit::new(300, 8 * MIB);
        let (given, most) = run(&mut credit, 100, |_| MIB);
        assert!(given <= 8 && most <= 8 * MIB, "{given} {most}");
    }

    #[test]
    fn now_and_then_a_large_one_is_reckoned_with() {
        let mut credit = Credit::new(300, 8 * MIB);
        let (given, most) = run(&mut credit, 1000, |n| if n % 20 == 0 { MIB } else { KIB });
        assert!((20..150).contains(&given), "{given}");
        assert!(most <= 8 * MIB, "{most}");
    }

    #[test]
    fn a_jump_of_the_sizes_is_cut_off() {
        let mut credit = Credit::new(300, 8 * MIB);
        let (_, most) = run(&mut credit, 100, |n| if n < 3000 { KIB } else { MIB });
        assert!(most < 9 * MIB, "{most}");
    }

    #[test]
    fn one_event_always_comes_through() {
        for most_bytes in [0, 1, KIB] {
            let mut credit = Credit::new(300, most_bytes);
            let (given, most) = run(&mut credit, 20, |_| MIB);
            assert_eq!((given, most), (1, MIB));
        }
        let mut credit = Credit::new(1, 8 * MIB);
        assert!(credit.update(0, 0, 0));
        assert_eq!(credit.limit(), 1);
        assert!(!credit.update(1, 1, KIB), "it has not been taken yet");
        assert!(credit.update(1, 0, 0));
        assert_eq!(credit.limit(), 2);
    }

    #[test]
    fn credit_is_taken_back_when_the_limit_falls() {
        let mut credit = Credit::new(300, 8 * MIB);
        let _ = run(&mut credit, 20, |_| 10 * KIB);
        let arrived = credit.limit().wrapping_sub(300);
        credit.set_most_bytes(100 * KIB);
        assert!(credit.update(arrived, 0, 0));
        assert!(remaining(credit.limit(), arrived) <= 10);
        assert!(!credit.is_overrun(8 * MIB - 1), "what was given may come");
    }

    #[test]
    fn half_of_the_credit_is_used_before_it_is_told_anew() {
        let mut credit = Credit::new(300, 8 * MIB);
        let _ = run(&mut credit, 20, |_| KIB);
        let start = credit.limit().wrapping_sub(300);
        assert!(!credit.update(start.wrapping_add(149), 0, 0));
        assert!(credit.update(start.wrapping_add(150), 0, 0));
    }

    proptest! {
        #[test]
        fn never_more_than_a_message_over_the_limit(
            most_events in 1u32..5000,
            most_bytes in 0..16 * MIB,
            sizes in proptest::collection::vec(1..2 * MIB, 1..50),
        ) {
            let mut credit = Credit::new(most_events, most_bytes);
            let (_, most) = run(&mut credit, 50, |n| sizes[(n as usize / 7) % sizes.len()]);
            prop_assert!(most < most_bytes + 2 * MIB);
        }

        #[test]
        fn the_count_of_deliveries_may_wrap(arrived in any::<u32>(), events in 0usize..400) {
            let mut credit = Credit::new(300, 8 * MIB);
            credit.limit = arrived;
            credit.update(arrived, events, events * KIB);
            prop_assert!(remaining(credit.limit(), arrived) <= 300u32.saturating_sub(events as u32).max(1));
        }
    }
}
