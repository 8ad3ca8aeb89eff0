//! What can be wrong with a data directory.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file is damaged where no crash of the emulator can have damaged it.
    #[error("{path} is damaged at byte {at}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        at: u64,
        /// What was found.
        what: &'static str,
    },
    /// Another emulator works on the directory.
    #[error("{path} is in use by another emulator")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory could not be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The manifest is of a later version, or not one at all.
    #[error("{path} is not a manifest this version can read: {what}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
}

impl DataError {
    /// For `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
