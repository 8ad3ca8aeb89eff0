//! The library against the emulator: everything in one process, nothing simulated in between.

#![allow(clippy::unwrap_used, reason = "tests")]

mod network;
mod support;
mod transport;
