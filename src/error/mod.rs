//! Error types shared by the layers. Each answers what a caller asks: is it transient, what did it concern.

mod connection_string;
mod last;
mod network;
mod processor;
mod reaction;
mod stall;
mod store;
mod transport;

pub use connection_string::ConnectionStringError;
pub use last::LastError;
pub use network::NetworkOptionError;
pub use processor::{
    BuildError, CheckpointError, DeadLetterError, InvalidPositionError, ProcessingError,
    ProcessorError,
};
pub use reaction::Reaction;
pub use stall::{StallReason, StallRemedy};
pub use store::{StoreError, StoreErrorKind};
pub use transport::{TransportError, TransportErrorKind};

/// Any error, boxed: what a handler may return and what stands behind an error of this crate.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
