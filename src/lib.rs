//! Event processor.

pub mod checkpoint;
pub mod credential;
pub mod error;
pub mod model;
pub mod transport;
