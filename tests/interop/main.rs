//! Tests together with the unmodified Python SDK: events, records, and consumer groups that both share.
//!
//! They run in real time, over real sockets, with processes that are killed. They need `EHP_INTEROP=1`, a Python
//! with the packages of `python/requirements.txt` in `EHP_PYTHON`, an Azurite in `EHP_AZURITE_CONNECTION_STRING`, the
//! program of one for node in `EHP_AZURITE_PROGRAM`,
//! and the programs of the workspace, built: `scripts/check.sh` prepares all of that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::expect_used, reason = "tests")]

mod events;
mod kill;
mod outage;
mod program;
mod records;
mod rolling;
mod setup;
mod shared_group;
mod signals;
mod storage;
mod timeline;
