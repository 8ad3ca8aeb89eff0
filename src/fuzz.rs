//! What the fuzz targets of `fuzz/` call. Not for users: the feature `unstable-fuzz` promises nothing.
//!
//! Each function takes the bytes of a stranger and panics if something does not hold.

use crate::{checkpoint, credential, model, network, transport};

/// A target: its name, which is that of its corpus, and what it calls.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("blob_listing", checkpoint::fuzz::listing),
    ("blob_records", checkpoint::fuzz::records),
    ("cloud_event", model::fuzz::cloud_event),
    ("connection_string", credential::fuzz::event_hubs),
    ("guard_events", transport::fuzz::events),
    ("guard_sent", transport::fuzz::sent),
    ("guard_stream", transport::fuzz::stream),
    ("http_head", network::fuzz::head),
    ("message_event", transport::fuzz::message),
    ("proxy", network::fuzz::proxy),
    ("sas", credential::fuzz::signature),
    ("selector", transport::fuzz::selector),
    ("storage_connection_string", credential::fuzz::storage),
    ("trace_context", model::fuzz::trace_context),
    ("websocket_frames", transport::fuzz::frames),
    ("websocket_upgrade", transport::fuzz::upgrade),
];
