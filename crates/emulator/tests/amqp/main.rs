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
mod network;
mod nodes;
mod receiving;
mod sending;
mod support;
