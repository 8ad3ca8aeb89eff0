//! When what expires is asked for again. Pure: chance comes in as an argument.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Least time between two attempts to renew one thing, so that a source that hands out stale tokens, or none, cannot
/// make a busy loop of the renewal.
pub(crate) const FLOOR: Duration = Duration::from_secs(5);

/// Longest time between two attempts while they fail.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// Longest time for one attempt to get a token from its source.
pub(crate) const MINT_TIMEOUT: Duration = Duration::from_secs(30);

/// Which part of its life a token has behind it when it is renewed: early enough that a few attempts may fail before
/// anything expires, and spread so that what was issued together is not renewed together.
const RENEW_AFTER: std::ops::RangeInclusive<f64> = 0.72..=0.8;

/// How long after it was issued something that lives for `life` is to be renewed.
pub(crate) fn renew_after(life: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    life.mul_f64(rng.random_range(RENEW_AFTER)).max(FLOOR)
}

/// How long after the failure number `failures` the next attempt comes.
pub(crate) fn retry_after(failures: u32, rng: &mut (impl Rng + ?Sized)) -> Duration {
    let wait = FLOOR.saturating_mul(1 << failures.saturating_sub(1).min(10));
    wait.min(MAX_WAIT).mul_f64(rng.random_range(1.0..=1.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn renewal_comes_ahead_of_the_expiry_and_never_in_a_hurry(life in 0u64..100_000, seed: u64) {
            let life = Duration::from_secs(life);
            let after = renew_after(life, &mut StdRng::seed_from_u64(seed));
            prop_assert!(after >= FLOOR);
            prop_assert!(after == FLOOR || after <= life.mul_f64(0.8));
        }

        #[test]
        fn attempts_that_fail_are_at_least_the_floor_and_at_most_a_minute_apart(failures: u32, seed: u64) {
            let wait = retry_after(failures, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait >= FLOOR && wait <= MAX_WAIT.mul_f64(1.1));
        }
    }

    #[test]
    fn a_token_of_twenty_seconds_is_renewed_with_four_to_spare() {
        for seed in 0..100 {
            let after = renew_after(Duration::from_secs(20), &mut StdRng::seed_from_u64(seed));
            assert!(
                after >= Duration::from_millis(14_400) && after <= Duration::from_secs(16),
                "{after:?}, seed {seed}"
            );
        }
    }

    #[test]
    fn what_is_issued_together_is_not_renewed_together() {
        let mut rng = StdRng::seed_from_u64(1);
        let hour = Duration::from_secs(3600);
        let (first, second) = (renew_after(hour, &mut rng), renew_after(hour, &mut rng));
        assert!(first.abs_diff(second) > Duration::from_secs(1));
    }
}
