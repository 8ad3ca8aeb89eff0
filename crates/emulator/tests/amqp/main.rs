//! The Event Hubs side, seen by a client that shares no code with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod control;
mod faults;
mod geo;
mod lifecycle;
mod matrix;
mod network;
mod network_faults;
mod nodes;
mod place_faults;
mod receiving;
mod records;
mod sending;
mod support;
