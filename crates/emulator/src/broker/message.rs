//! Taking a message apart for storage, and encoding it for delivery once at append.

use bytes::{BufMut, Bytes, BytesMut};

use crate::amqp::codec::encode::{
    finish_compound, put_descriptor, put_long, put_str, put_symbol, put_timestamp, reserve_compound,
};
use crate::amqp::codec::{DecodeError, Decoder, Value, descriptor};
use crate::amqp::limits::MAX_ELEMENTS;

pub(crate) const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
pub(crate) const OFFSET: &str = "x-opt-offset";
pub(crate) const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
pub(crate) const PARTITION_KEY: &str = "x-opt-partition-key";
/// `transfer.message-format` of a batch.
pub(crate) const BATCH_FORMAT: u32 = 0x8001_3700;

/// A message ready to be stored: everything but what the partition adds to it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The header section as it came, maybe empty.
    header: Bytes,
    /// Message annotations to keep, encoded keys and values.
    annotations: Bytes,
    annotation_items: u32,
    /// Properties, application properties, body and footer as they came.
    rest: Bytes,
    partition_key: Option<String>,
}

/// What a partition adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp<'a> {
    pub(crate) sequence_number: i64,
    pub(crate) offset: &'a str,
    pub(crate) enqueued_ms: i64,
}

impl Message {
    pub(crate) fn partition_key(&self) -> Option<&str> {
        self.partition_key.as_deref()
    }

    /// Room the stored form takes at most.
    pub(crate) fn stored_len(&self) -> usize {
        self.header.len() + self.annotations.len() + self.rest.len() + 128
    }

    /// Splits an encoded message. Body and properties are not looked into: they go to receivers as
    /// they came.
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut message = Self {
            header: Bytes::new(),
            annotations: Bytes::new(),
            annotation_items: 0,
            rest: Bytes::new(),
            partition_key: None,
        };
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            let at = bytes.len() - decoder.remaining();
            let code = decoder.descriptor()?;
            match code {
                descriptor::HEADER => {
                    decoder.skip()?;
                    message.header = bytes.slice(at..bytes.len() - decoder.remaining());
                }
                // PROTOCOL: delivery annotations are for the next hop only.
                descriptor::DELIVERY_ANNOTATIONS => {
                    decoder.skip()?;
                }
                descriptor::MESSAGE_ANNOTATIONS => message.keep_annotations(decoder.skip()?)?,
                descriptor::PROPERTIES..=descriptor::FOOTER => {
                    decoder.skip()?;
                    while !decoder.is_empty() {
                        match decoder.descriptor()? {
                            descriptor::PROPERTIES..=descriptor::FOOTER => decoder.skip()?,
                            other => return Err(DecodeError::Descriptor(other)),
                        };
                    }
                    message.rest = bytes.slice(at..);
                }
                other => return Err(DecodeError::Descriptor(other)),
            }
        }
        Ok(message)
    }

    /// The messages of a batch: each data section of the envelope holds one.
    pub(crate) fn parse_batch(bytes: &Bytes) -> Result<Vec<Self>, DecodeError> {
        let mut messages = Vec::new();
        let mut envelope_key = None;
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            match decoder.descriptor()? {
                descriptor::DATA => {
                    let start = bytes.len() - decoder.remaining();
                    let data = decoder.binary()?;
                    let end = bytes.len() - decoder.remaining();
                    if messages.len() >= MAX_ELEMENTS as usize {
                        return Err(DecodeError::Elements);
                    }
                    let inner = bytes.slice(start.max(end - data.len())..end);
                    messages.push(Self::parse(&inner)?);
                }
                descriptor::MESSAGE_ANNOTATIONS => {
                    let mut envelope = Self::parse(&Bytes::new())?;
                    envelope.keep_annotations(decoder.skip()?)?;
                    envelope_key = envelope.partition_key;
                }
                descriptor::HEADER..=descriptor::FOOTER => {
                    decoder.skip()?;
                }
                other => return Err(DecodeError::Descriptor(other)),
            }
        }
        if let Some(key) = envelope_key {
            for message in &mut messages {
                message.add_partition_key(&key);
            }
        }
        Ok(messages)
    }

    /// Writes the stored form to the end of `buf` and returns the length of its header section:
    /// the delivery annotations of a link go behind that.
    pub(crate) fn encode(&self, stamp: Stamp<'_>, buf: &mut BytesMut) -> usize {
        buf.put_slice(&self.header);
        put_descriptor(buf, descriptor::MESSAGE_ANNOTATIONS);
        buf.put_u8(0xd1);
        let start = reserve_compound(buf);
        put_symbol(buf, SEQUENCE_NUMBER);
        put_long(buf, stamp.sequence_number);
        put_symbol(buf, OFFSET);
        put_str(buf, stamp.offset);
        put_symbol(buf, ENQUEUED_TIME);
        put_timestamp(buf, stamp.enqueued_ms);
        buf.put_slice(&self.annotations);
        finish_compound(buf, start, self.annotation_items + 6);
        buf.put_slice(&self.rest);
        self.header.len()
    }

    /// Keeps what a sender may set; the three system annotations are the partition's own.
    fn keep_annotations(&mut self, raw: &[u8]) -> Result<(), DecodeError> {
        if raw == [0x40] {
            return Ok(());
        }
        // Of several sections the last counts.
        (self.annotation_items, self.partition_key) = (0, None);
        let mut kept = BytesMut::new();
        let (mut entries, items) = Decoder::new(raw).raw_map()?;
        for _ in 0..items / 2 {
            let raw_key = entries.skip()?;
            let raw_value = entries.skip()?;
            let key = Decoder::new(raw_key).value()?;
            match key.as_text() {
                Some(SEQUENCE_NUMBER | OFFSET | ENQUEUED_TIME) => continue,
                Some(PARTITION_KEY) => {
                    if let Value::String(key) = Decoder::new(raw_value).value()? {
                        self.partition_key = Some(key);
                    }
                }
                _ => {}
            }
            kept.put_slice(raw_key);
            kept.put_slice(raw_value);
            self.annotation_items += 2;
        }
        self.annotations = kept.freeze();
        Ok(())
    }

    /// INTEROP: Python, JS and Rust write the key on the batch and on each event, others only once.
    fn add_partition_key(&mut self, key: &str) {
        if self.partition_key.is_some() {
            return;
        }
        let mut annotations = BytesMut::from(&self.annotations[..]);
        put_symbol(&mut annotations, PARTITION_KEY);
        put_str(&mut annotations, key);
        self.annotations = annotations.freeze();
        self.annotation_items += 2;
        self.partition_key = Some(key.to_owned());
    }
}
