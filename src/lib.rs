#![doc = include_str!("../README.md")]

mod balance;
#[cfg(feature = "unstable-bench")]
#[doc(hidden)]
pub mod bench;
pub mod checkpoint;
mod client;
pub mod credential;
mod dead_letter;
pub mod error;
#[cfg(feature = "unstable-fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod model;
pub mod network;
#[doc = include_str!("observability.md")]
pub mod observability {}
mod processor;
mod retry;
mod telemetry;
pub mod transport;

pub use balance::LoadBalancingStrategy;
pub use checkpoint::{BlobCheckpointStore, CheckpointStore, InMemoryCheckpointStore};
pub use client::{EventHubConsumerClient, Receive, ReceiveError};
pub use dead_letter::{BlobDeadLetters, DeadLetter, DeadLetterSink, EventHubDeadLetters};
pub use error::{
    BoxError, BuildError, CheckpointError, DeadLetterError, InvalidPositionError, LastError,
    NetworkOptionError, ProcessingError, ProcessorError, Reaction, StallReason, StallRemedy,
    StoreError, TransportError,
};
pub use model::{
    AmqpBody, Checkpoint, CloudEvent, CloudEventAttributes, ETag, EventHubProperties, EventParts,
    EventPosition, GroupScope, IotHubProperties, LastEnqueuedEventProperties, MessageProperties,
    Offset, OwnerId, Ownership, PartitionId, PartitionProperties, ReceivedEvent, TraceContext,
    UndecodableEvent, UndecodableReason, Value,
};
pub use network::{HttpProxy, Proxy, TlsOptions};
pub use processor::{
    CheckpointPolicy, CheckpointRegression, CloseReason, ControlThread, EventHandler,
    EventProcessor, EventProcessorBuilder, FailureAction, FailurePolicy, HandlerResult,
    InvalidPosition, LoadBalancingProfile, LoadBalancingStatus, MemoryBudget, Partition,
    PartitionContext, PartitionState, PartitionStatus, Partitions, ProcessorHandle,
    ProcessorOptions, ProcessorStatus, PullProcessor, StatusWatch, StopReport, Stopper,
    StorageOperations, UnprovenOwnership, handler_fn, handler_fn_with,
};
pub use retry::{RetryMode, RetryOptions};
pub use transport::{AmqpOptions, AmqpTransport, Transport, TransportType};
