//! One number to independent streams of chance.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Where all chance of one run comes from. Streams of different names are independent, so that a fault left out does
/// not change the workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The stream called `name`, number `index`.
    pub(crate) fn stream(self, name: &str, index: u64) -> StdRng {
        StdRng::seed_from_u64(self.number(name, index))
    }

    /// One number out of the same space as the streams.
    pub(crate) fn number(self, name: &str, index: u64) -> u64 {
        // Its keys are fixed: the same everywhere and for ever.
        let mut hasher = DefaultHasher::new();
        (self.0, name, index).hash(&mut hasher);
        hasher.finish()
    }
}
