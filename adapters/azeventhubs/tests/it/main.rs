//! The adapter against the emulator, over TLS because azeventhubs speaks nothing else.
#![allow(
    clippy::expect_used,
    clippy::future_not_send,
    clippy::unwrap_used,
    reason = "tests"
)]

mod geo;
mod processors;
mod receiving;
mod world;
