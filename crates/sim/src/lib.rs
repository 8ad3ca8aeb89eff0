//! A deterministic simulator of whole event processors.
//!
//! The production processor runs over a simulated event hub and a simulated blob store, next to models of the other
//! SDKs' processors, in virtual time and from one seed. [`scenario`] measures how fast and how calmly a group finds
//! its balance; [`swarm`] throws faults at it and checks its history against what is promised.
#![allow(
    clippy::exhaustive_enums,
    reason = "not published; a new variant is to be seen everywhere"
)]

pub mod bugs;
mod gate;
mod handler;
mod history;
mod hub;
pub mod marks;
mod ours;
mod payload;
pub mod peers;
pub mod scenario;
pub mod seed;
mod store;
pub mod swarm;
mod terms;
mod tracer;
mod view_check;
mod world;
