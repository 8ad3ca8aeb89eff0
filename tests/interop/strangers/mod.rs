//! Unmodified clients of others against the emulator: everything they can do, one feature after the other.
//!
//! Each client is a small program (`features` in `python`, `js`, `rust-0.15`, `rust-0.16`) that prints what it was told.
//! The tests here compare that with what the emulator has, and what works with `docs/interop.md`.

mod features;
mod processor;
mod table;

use std::fmt;

use crate::program::Command;
use crate::setup::Tools;

/// A client that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    Python,
    PythonAio,
    Js,
    Rust015,
    Rust016,
}

impl Stranger {
    pub(crate) const ALL: [Self; 5] = [
        Self::Python,
        Self::PythonAio,
        Self::Js,
        Self::Rust015,
        Self::Rust016,
    ];

    /// The program that shows its features.
    fn features(self, tools: &Tools) -> Command {
        match self {
            Self::Python => tools.python("features.py"),
            Self::PythonAio => tools.python("features_aio.py"),
            Self::Js => tools.js("features.mjs"),
            Self::Rust015 => tools.rust_client("interop-rust-0-15"),
            Self::Rust016 => tools.rust_client("interop-rust-0-16"),
        }
    }

    /// The program that reads all partitions with its own processor and its own blob store, if it has them.
    pub(crate) fn consumer(self, tools: &Tools) -> Option<Command> {
        match self {
            Self::Python => Some(tools.python("consume_sync.py")),
            Self::PythonAio => Some(tools.python("consume.py")),
            Self::Js => Some(tools.js("consume.mjs")),
            Self::Rust015 => Some(tools.rust_client("interop-rust-0-15").arg("consume")),
            Self::Rust016 => None,
        }
    }
}

/// As the table heads its column.
impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "Python 5.15.1",
            Self::PythonAio => "Python 5.15.1, aio",
            Self::Js => "JavaScript 6.0.4",
            Self::Rust015 => "Rust 0.15.0",
            Self::Rust016 => "Rust 0.16.0",
        })
    }
}
