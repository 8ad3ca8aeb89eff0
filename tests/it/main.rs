//! Tests of the crate as its users see it, in one binary.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::expect_used, reason = "tests")]

mod checkpoint_store;
