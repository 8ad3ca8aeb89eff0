//! What the fuzz targets of `fuzz/` call. Not for users: the feature `unstable-fuzz` promises nothing.
//!
//! Each function takes the bytes of a stranger and panics if something does not hold.

use crate::{amqp, blob, control};

/// A target: its name, which is that of its corpus, and what it calls.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("emulator_blob_auth", blob::fuzz::auth),
    ("emulator_blob_http", blob::fuzz::http),
    ("emulator_cbs", amqp::fuzz::cbs),
    ("emulator_connection", amqp::fuzz::connection),
    ("emulator_control", control::fuzz::orders),
    ("emulator_frame", amqp::fuzz::frame),
    ("emulator_management", amqp::fuzz::management),
    ("emulator_message", amqp::fuzz::message),
    ("emulator_sas", amqp::fuzz::sas),
    ("emulator_selector", amqp::fuzz::selector),
    ("emulator_websocket", amqp::fuzz::websocket),
];
