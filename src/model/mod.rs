//! Names and values of the field: plain data, no IO, no behaviour beyond parsing and comparing.

mod checkpoint;
mod cloud_event;
mod event;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod ids;
mod iot_hub;
mod ownership;
mod partition;
mod position;
mod trace_context;
mod undecodable;
mod value;
mod write;

pub use checkpoint::Checkpoint;
pub use cloud_event::{CloudEvent, CloudEventAttributes};
pub(crate) use event::EncodedSections;
pub use event::{AmqpBody, EventParts, MessageProperties, ReceivedEvent};
pub use ids::{ETag, GroupScope, Offset, OwnerId, PartitionId};
pub use iot_hub::IotHubProperties;
pub use ownership::Ownership;
pub use partition::{EventHubProperties, LastEnqueuedEventProperties, PartitionProperties};
pub use position::EventPosition;
pub use trace_context::TraceContext;
pub(crate) use undecodable::Position;
pub use undecodable::{UndecodableEvent, UndecodableReason};
pub use value::Value;
pub use write::WriteCondition;
