//! What is in the partitions, for the assertions of a test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::{Emulator, EmulatorError};
use crate::amqp::codec::{Decoder, descriptor};
use crate::broker::{Message, StoredEvent};

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// Its sequence number.
    pub sequence_number: i64,
    /// Its offset.
    pub offset: String,
    /// When it was enqueued, in whole milliseconds.
    pub enqueued_time: SystemTime,
    /// The partition key it was sent with.
    pub partition_key: Option<String>,
    /// Its data sections, one after the other; empty if its body is of another kind.
    pub body: Vec<u8>,
    /// The whole message, as receivers get it.
    pub encoded: Vec<u8>,
}

impl Emulator {
    /// The events that a partition holds, oldest first. They are copied, whatever their size.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or partition.
    pub fn events(&self, hub: &str, partition: &str) -> Result<Vec<RecordedEvent>, EmulatorError> {
        let found = self.hub(hub)?;
        let place = found
            .partition(partition)
            .ok_or_else(|| no_such_partition(hub, partition))?;
        let (first, events) = place.events();
        let numbered = (first..).zip(events);
        Ok(numbered
            .map(|(n, (offset, event))| recorded(n, offset.to_string(), &event))
            .collect())
    }
}

fn no_such_partition(hub: &str, partition: &str) -> EmulatorError {
    EmulatorError::NoSuchPartition {
        hub: hub.to_owned(),
        partition: partition.to_owned(),
    }
}

fn recorded(sequence_number: i64, offset: String, event: &StoredEvent) -> RecordedEvent {
    let millis = u64::try_from(event.enqueued_ms()).unwrap_or(0);
    let key = Message::parse(&event.encoded).ok();
    RecordedEvent {
        sequence_number,
        offset,
        enqueued_time: UNIX_EPOCH + Duration::from_millis(millis),
        partition_key: key.and_then(|message| message.partition_key().map(str::to_owned)),
        body: data_of(&event.encoded),
        encoded: event.encoded.to_vec(),
    }
}

/// The data sections; what cannot be decoded has none.
fn data_of(encoded: &Bytes) -> Vec<u8> {
    let mut data = Vec::new();
    let mut decoder = Decoder::new(encoded);
    while let Ok(code) = decoder.descriptor() {
        if code == descriptor::DATA {
            match decoder.binary() {
                Ok(section) => data.extend_from_slice(section),
                Err(_) => break,
            }
        } else if decoder.skip().is_err() {
            break;
        }
    }
    data
}
