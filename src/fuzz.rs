//! What the fuzz targets of `fuzz/` call. Not for users: the feature `unstable-fuzz` promises nothing.
//!
//! Each function takes the bytes of a stranger and panics if something does not hold.

use crate::{checkpoint, credential, transport};

/// A target: its name, which is that of its corpus, and what it calls.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("blob_listing", checkpoint::fuzz::listing),
    ("blob_records", checkpoint::fuzz::records),
    ("connection_string", credential::fuzz::event_hubs),
    ("guard_events", transport::fuzz::events),
    ("guard_sent", transport::fuzz::sent),
    ("guard_stream", transport::fuzz::stream),
    ("message_event", transport::fuzz::message),
    ("sas", credential::fuzz::signature),
    ("selector", transport::fuzz::selector),
    ("storage_connection_string", credential::fuzz::storage),
];
