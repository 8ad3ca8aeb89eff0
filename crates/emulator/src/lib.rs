//! A local stand-in for Azure Event Hubs and the blob storage of its checkpoints.
//!
//! It runs in the process of a test or as the program `eventhubs-emulator`, and serves the
//! unmodified SDKs of all languages over plain TCP, TLS and WebSockets. Events, ownership records
//! and checkpoints live in memory and are gone with it, unless [`EmulatorBuilder::with_data_dir`]
//! keeps them.
//!
//! A test of something that receives:
//!
//! ```
//! use eventhubs_emulator::Emulator;
//! use fe2o3_amqp::{Connection, Receiver, Session};
//! use fe2o3_amqp::types::{messaging::Body, primitives::Value};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let emulator = Emulator::builder().with_hub("telemetry", 4).start().await?;
//! emulator.send("telemetry", Some("0"), "hello")?;
//!
//! let url = format!("amqp://{}", emulator.amqp_addr());
//! let mut connection = Connection::open("test", &*url).await?;
//! let mut session = Session::begin(&mut connection).await?;
//! let source = "telemetry/ConsumerGroups/$Default/Partitions/0";
//! let mut receiver = Receiver::attach(&mut session, "receiver", source).await?;
//! let event = receiver.recv::<Body<Value>>().await?;
//! assert!(event.body().is_data());
//!
//! // And what becomes of it when the service takes the link away:
//! emulator.faults().detach_receivers("telemetry", None, "amqp:link:detach-forced", "idle");
//! assert!(receiver.recv::<Body<Value>>().await.is_err());
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
mod issuer;
mod storage;

pub use emulator::{
    AmqpRequests, BadFrame, BlobFaults, BlobOperation, ConfigError, ConnectionStatus, Emulator,
    EmulatorBuilder, EmulatorError, Event, Faults, HubStatus, InProcessStream, PartitionProperties,
    PartitionStatus, PropertyValue, ReaderStatus, RecordedEvent, ReplyFault, ResetStage, SentEvent,
    StartError, Status, TlsFault,
};
pub use storage::DataError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
