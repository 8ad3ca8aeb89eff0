//! Chance for faults.

/// Chance that can be repeated: the same seed and the same occasions give the same faults, on every
/// machine and with every version of other crates. Sebastiano Vigna's `splitmix64`.
#[derive(Debug, Default)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Whether something of this chance, from 0 to 1, happens now.
    pub(crate) fn falls(&mut self, chance: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 53 bits make an even spread of numbers from 0 to 1.
        ((z >> 11) as f64 / (1_u64 << 53) as f64) < chance
    }
}
