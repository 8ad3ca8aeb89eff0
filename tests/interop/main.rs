//! Tests together with the unmodified SDKs of others: the emulator with their clients, and ours in groups with their
//! processors.
//!
//! They run in real time, over real sockets, with processes that are killed. They need `EHP_INTEROP=1`, a Python
//! with the packages of `python/requirements.txt` in `EHP_PYTHON`, those of `js/package.json` in `EHP_JS`, the programs
//! of `rust-0.15` and `rust-0.16` in `EHP_RUST_CLIENTS`, an Azurite in `EHP_AZURITE_CONNECTION_STRING`, the program of
//! one for node in `EHP_AZURITE_PROGRAM`, and the programs of the workspace, built: `scripts/check.sh` prepares all of
//! that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::expect_used, reason = "tests")]

mod dead_letters;
mod events;
mod kill;
mod mixed_group;
mod outage;
mod program;
mod records;
mod rolling;
mod setup;
mod shared_group;
mod signals;
mod storage;
mod strangers;
mod timeline;
