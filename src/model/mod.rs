//! Names and values of the field: plain data, no IO, no behaviour beyond parsing and comparing.

mod checkpoint;
mod event;
mod ids;
mod ownership;
mod partition;
mod position;
mod undecodable;
mod value;
mod write;

pub use checkpoint::Checkpoint;
pub(crate) use event::EncodedSections;
pub use event::{AmqpBody, EventParts, MessageProperties, ReceivedEvent};
pub use ids::{ETag, GroupScope, Offset, OwnerId, PartitionId};
pub use ownership::Ownership;
pub use partition::{EventHubProperties, LastEnqueuedEventProperties, PartitionProperties};
pub use position::EventPosition;
pub(crate) use undecodable::Position;
pub use undecodable::{UndecodableEvent, UndecodableReason};
pub use value::Value;
pub use write::WriteCondition;
