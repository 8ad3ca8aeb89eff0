//! What benches of stores call.

pub use super::blob::bench::{read_checkpoint, read_owner, write_checkpoint, write_owner};
