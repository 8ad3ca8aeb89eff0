//! A local stand-in for Azure Event Hubs and the blob storage of its checkpoints.
//!
//! It runs in the process of a test or as the program `eventhubs-emulator`, and serves the
//! unmodified SDKs of all languages over plain TCP, TLS and WebSockets. Events, ownership records
//! and checkpoints live in memory and are gone with it, unless [`EmulatorBuilder::with_data_dir`]
//! keeps them.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use eventhubs_emulator::{Emulator, Event};
//!
//! let emulator = Emulator::builder().with_hub("telemetry", 4).start().await?;
//! emulator.create_container("checkpoints")?;
//! emulator.send("telemetry", Some("0"), Event::new("hello").with_property("n", 1_i64))?;
//! let connection_string = emulator.event_hubs_connection_string();
//! emulator.stop().await;
//! # drop(connection_string);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod amqp;
mod blob;
mod broker;
mod control;
mod dice;
mod emulator;
#[cfg(feature = "unstable-fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod storage;

pub use emulator::{
    BadFrame, BlobFaults, BlobOperation, ConfigError, Emulator, EmulatorBuilder, EmulatorError,
    Event, Faults, InProcessStream, PartitionProperties, PropertyValue, ReplyFault, ResetStage,
    SentEvent, StartError, TlsFault,
};
pub use storage::DataError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
