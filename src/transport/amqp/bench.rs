//! An event as it comes from the service, to be decoded over and over.

use std::fmt;

use bytes::{Buf as _, Bytes};
use fe2o3_amqp_types::messaging::annotations::{Annotations, OwnedKey};
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Batch, Body, Data, DeliveryAnnotations, Message, MessageAnnotations,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Timestamp, Value};
use serde_amqp::read::IoReader;

use super::wire::message;
use crate::model::ReceivedEvent;

/// An encoded event.
pub struct EncodedEvent(Bytes);

impl EncodedEvent {
    /// With a body of so many bytes, the annotations of the service, what it tells of the partition's end, and so many
    /// application properties.
    ///
    /// # Panics
    ///
    /// If the library cannot encode it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a bench has nothing better to do")]
    pub fn new(body: usize, properties: usize) -> Self {
        let time = || Value::Timestamp(Timestamp::from_milliseconds(1_790_000_000_000));
        let number = || Value::Long(123_456_789);
        let offset = || Value::String("4398046511104".to_owned());
        let placed = annotations([
            ("x-opt-sequence-number", number()),
            ("x-opt-offset", offset()),
            ("x-opt-enqueued-time", time()),
            ("x-opt-partition-key", Value::String("device-17".to_owned())),
        ]);
        let told = annotations([
            ("last_enqueued_sequence_number", number()),
            ("last_enqueued_offset", offset()),
            ("last_enqueued_time_utc", time()),
            ("runtime_info_retrieval_time_utc", time()),
        ]);
        let mut message = Message::builder()
            .delivery_annotations(DeliveryAnnotations(told))
            .message_annotations(MessageAnnotations(placed))
            .body(Body::<Value>::Data(Batch::new(vec![Data(Binary::from(
                vec![7; body],
            ))])))
            .build();
        message.application_properties = (properties > 0).then(|| {
            let mut section = ApplicationProperties::default();
            for number in 0..properties {
                let value = SimpleValue::String(format!("value {number}"));
                section.0.insert(format!("property-{number}"), value);
            }
            section
        });
        let encoded = serde_amqp::to_vec(&Serializable(message)).expect("an event is encoded");
        Self(encoded.into())
    }

    /// What a receiver does with it.
    ///
    /// # Panics
    ///
    /// If it is no event.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a bench has nothing better to do")]
    pub fn receive(&self) -> ReceivedEvent {
        message::event(self.0.clone()).expect("it is an event")
    }

    /// What fe2o3-amqp does with it.
    ///
    /// # Panics
    ///
    /// If it is no message.
    #[expect(clippy::expect_used, reason = "a bench has nothing better to do")]
    pub fn receive_by_library(&self) {
        let reader = IoReader::new(self.0.clone().reader());
        let message = Body::<Value>::decode_message_from_reader(reader);
        std::hint::black_box(message.expect("it is a message"));
    }
}

impl fmt::Debug for EncodedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedEvent({} bytes)", self.0.len())
    }
}

fn annotations<const N: usize>(entries: [(&str, Value); N]) -> Annotations {
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (OwnedKey::from(key), value))
        .collect()
}
