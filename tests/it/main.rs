//! The library as its users see it, against the emulator in the same process, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod architecture;
mod blocking;
mod checkpoint_store;
mod connect;
mod credentials;
mod dead_letters;
mod input;
mod limits;
mod network;
mod odd_deliveries;
mod processor;
mod support;
mod transport;
mod watchdog;
