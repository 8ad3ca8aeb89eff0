//! What `benches/parts` calls. Not for users: the feature `unstable-bench` promises nothing.

pub use crate::balance::bench::Group;
pub use crate::checkpoint::bench::{read_checkpoint, read_owner, write_checkpoint, write_owner};
pub use crate::transport::bench::EncodedEvent;
