//! What outlives the process: a directory with a manifest, a log per partition and one for blobs.
//!
//! No name that a user chose becomes a file name: event hubs have numbers here, which the manifest
//! maps to names.

mod directory;
mod error;
pub(crate) mod frame;

pub(crate) use directory::{DataDir, HubEntry, replace, sync_parent};
pub use error::DataError;
