//! The fields of a performative or section.

use super::{DecodeError, Decoder, Value};

/// The fields of a list, in order. Fields that the peer left out read as null.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    decoder: Decoder<'a>,
    left: u32,
}

impl<'a> Fields<'a> {
    pub(super) fn new(decoder: Decoder<'a>, count: u32) -> Self {
        Self {
            decoder,
            left: count,
        }
    }

    pub(crate) fn value(&mut self) -> Result<Value, DecodeError> {
        if self.left == 0 {
            return Ok(Value::Null);
        }
        self.left -= 1;
        self.decoder.value()
    }

    /// The next field as it is encoded; `None` if it is null.
    pub(crate) fn raw(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.decoder
            .skip()
            .map(|raw| (raw != [0x40]).then_some(raw))
    }

    pub(crate) fn uint(&mut self) -> Result<Option<u32>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            other => other
                .as_i64()
                .and_then(|n| u32::try_from(n).ok())
                .map(Some)
                .ok_or(TYPE_OF_FIELD),
        }
    }

    pub(crate) fn boolean(&mut self) -> Result<Option<bool>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(flag)),
            _ => Err(TYPE_OF_FIELD),
        }
    }

    pub(crate) fn text(&mut self) -> Result<Option<String>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::String(text) | Value::Symbol(text) => Ok(Some(text)),
            _ => Err(TYPE_OF_FIELD),
        }
    }
}

/// A field holds a type it cannot have; the code itself is of no interest to anybody.
const TYPE_OF_FIELD: DecodeError = DecodeError::Type(0xff);
