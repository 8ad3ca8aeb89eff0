//! Reading values, bounded in depth and in number.

use bytes::Bytes;
use thiserror::Error;

use super::Value;
use crate::amqp::limits::{MAX_DEPTH, MAX_ELEMENTS};

/// Why bytes are not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    #[error("value nested deeper than {MAX_DEPTH}")]
    Depth,
    #[error("more than {MAX_ELEMENTS} values")]
    Elements,
    #[error("map with an odd number of items")]
    OddMap,
    #[error("value ends early")]
    Truncated,
    #[error("text is not UTF-8")]
    Text,
    #[error("unexpected type code 0x{0:02x}")]
    Type(u8),
    #[error("unexpected descriptor 0x{0:x}")]
    Descriptor(u64),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads values from the front of a slice.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
    budget: u32,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            budget: MAX_ELEMENTS,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next value, of any type.
    pub(crate) fn value(&mut self) -> Result<Value> {
        self.value_at(0)
    }

    /// The descriptor code of the next described value; the value itself follows.
    pub(crate) fn descriptor(&mut self) -> Result<u64> {
        match self.u8()? {
            0x00 => {}
            other => return Err(DecodeError::Type(other)),
        }
        match self.u8()? {
            0x44 => Ok(0),
            0x53 => Ok(self.u8()?.into()),
            0x80 => self.u64(),
            other => Err(DecodeError::Type(other)),
        }
    }

    /// The next value as a list whose fields are read one by one.
    pub(crate) fn list(&mut self) -> Result<Fields<'a>> {
        let code = self.u8()?;
        let (bytes, count) = match code {
            0x45 => (&[][..], 0),
            0xc0 | 0xd0 => self.compound(code)?,
            other => return Err(DecodeError::Type(other)),
        };
        Ok(Fields {
            decoder: Self {
                rest: bytes,
                budget: self.budget,
            },
            left: count,
        })
    }

    /// The next value as a map: its entries as they are encoded, and the number of keys and values.
    pub(crate) fn raw_map(&mut self) -> Result<(Self, u32)> {
        let code = self.u8()?;
        match code {
            0xc1 | 0xd1 => {
                let (bytes, count) = self.compound(code)?;
                if count % 2 != 0 {
                    return Err(DecodeError::OddMap);
                }
                Ok((
                    Self {
                        rest: bytes,
                        budget: self.budget,
                    },
                    count,
                ))
            }
            other => Err(DecodeError::Type(other)),
        }
    }

    /// The next value as binary, without a copy.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8]> {
        let code = self.u8()?;
        let len = match code {
            0xa0 => self.u8()?.into(),
            0xb0 => self.u32()? as usize,
            other => return Err(DecodeError::Type(other)),
        };
        self.take(len)
    }

    /// Steps over the next value and returns its encoding.
    ///
    /// Every type code tells the width of its value, so that nothing nested is looked at and no
    /// recursion is needed.
    pub(crate) fn skip(&mut self) -> Result<&'a [u8]> {
        let start = self.rest;
        let mut pending = 1_usize;
        while pending > 0 {
            pending -= 1;
            let code = self.u8()?;
            let width = match code >> 4 {
                0x0 if code == 0 => {
                    pending += 2;
                    0
                }
                0x4 => 0,
                0x5 => 1,
                0x6 => 2,
                0x7 => 4,
                0x8 => 8,
                0x9 => 16,
                0xa | 0xc | 0xe => self.u8()?.into(),
                0xb | 0xd | 0xf => self.u32()? as usize,
                _ => return Err(DecodeError::Type(code)),
            };
            self.take(width)?;
        }
        let (skipped, _) = start.split_at(start.len() - self.rest.len());
        Ok(skipped)
    }

    fn value_at(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        match self.u8()? {
            0x00 => {
                let descriptor = self.value_at(depth + 1)?;
                let value = self.value_at(depth + 1)?;
                Ok(Value::Described(Box::new((descriptor, value))))
            }
            code => self.body(code, depth),
        }
    }

    fn body(&mut self, code: u8, depth: usize) -> Result<Value> {
        self.budget = self.budget.checked_sub(1).ok_or(DecodeError::Elements)?;
        Ok(match code {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x43 => Value::Uint(0),
            0x44 => Value::Ulong(0),
            0x45 => Value::List(Vec::new()),
            0x50 => Value::Ubyte(self.u8()?),
            0x51 => Value::Byte(self.u8()? as i8),
            0x52 => Value::Uint(self.u8()?.into()),
            0x53 => Value::Ulong(self.u8()?.into()),
            0x54 => Value::Int((self.u8()? as i8).into()),
            0x55 => Value::Long((self.u8()? as i8).into()),
            0x56 => Value::Bool(self.u8()? != 0),
            0x60 => Value::Ushort(u16::from_be_bytes(self.array()?)),
            0x61 => Value::Short(i16::from_be_bytes(self.array()?)),
            0x70 => Value::Uint(self.u32()?),
            0x71 => Value::Int(i32::from_be_bytes(self.array()?)),
            0x72 => Value::Float(f32::from_be_bytes(self.array()?)),
            0x73 => Value::Char(self.u32()?),
            0x74 => Value::Decimal(Bytes::copy_from_slice(self.take(4)?)),
            0x80 => Value::Ulong(self.u64()?),
            0x81 => Value::Long(i64::from_be_bytes(self.array()?)),
            0x82 => Value::Double(f64::from_be_bytes(self.array()?)),
            0x83 => Value::Timestamp(i64::from_be_bytes(self.array()?)),
            0x84 => Value::Decimal(Bytes::copy_from_slice(self.take(8)?)),
            0x94 => Value::Decimal(Bytes::copy_from_slice(self.take(16)?)),
            0x98 => Value::Uuid(self.array()?),
            0xa0 | 0xb0 => Value::Binary(Bytes::copy_from_slice(self.variable(code)?)),
            0xa1 | 0xb1 => Value::String(text(self.variable(code)?)?),
            0xa3 | 0xb3 => Value::Symbol(text(self.variable(code)?)?),
            0xc0 | 0xd0 => Value::List(self.items(code, depth)?),
            0xc1 | 0xd1 => Value::Map(self.entries(code, depth)?),
            0xe0 | 0xf0 => Value::Array(self.array_items(code, depth)?),
            other => return Err(DecodeError::Type(other)),
        })
    }

    fn items(&mut self, code: u8, depth: usize) -> Result<Vec<Value>> {
        let (bytes, count) = self.compound(code)?;
        self.inside(bytes, |inner| {
            (0..count).map(|_| inner.value_at(depth + 1)).collect()
        })
    }

    fn entries(&mut self, code: u8, depth: usize) -> Result<Vec<(Value, Value)>> {
        let (bytes, count) = self.compound(code)?;
        if count % 2 != 0 {
            return Err(DecodeError::OddMap);
        }
        self.inside(bytes, |inner| {
            (0..count / 2)
                .map(|_| Ok((inner.value_at(depth + 1)?, inner.value_at(depth + 1)?)))
                .collect()
        })
    }

    /// The elements of an array share one constructor, which may be described and may have a width
    /// of zero: then nine bytes could ask for four billion values, hence the budget.
    fn array_items(&mut self, code: u8, depth: usize) -> Result<Vec<Value>> {
        let (bytes, count) = self.compound(code)?;
        if depth + 1 > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        self.inside(bytes, |inner| {
            let mut element = inner.u8()?;
            let descriptor = match element {
                0x00 => {
                    let descriptor = inner.value_at(depth + 1)?;
                    element = inner.u8()?;
                    Some(descriptor)
                }
                _ => None,
            };
            (0..count)
                .map(|_| {
                    let value = inner.body(element, depth + 1)?;
                    Ok(match &descriptor {
                        // Scalars only: a descriptor that is itself large would be copied per item.
                        Some(Value::Ulong(code)) => {
                            Value::Described(Box::new((Value::Ulong(*code), value)))
                        }
                        _ => value,
                    })
                })
                .collect()
        })
    }

    /// Runs `read` on the inside of a compound value, with what is left of the budget.
    fn inside<T>(
        &mut self,
        bytes: &'a [u8],
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut inner = Self {
            rest: bytes,
            budget: self.budget,
        };
        let result = read(&mut inner);
        self.budget = inner.budget;
        result
    }

    /// Size and count of a list, map or array: the bytes after the count, and the count.
    fn compound(&mut self, code: u8) -> Result<(&'a [u8], u32)> {
        let (size, width) = match code >> 4 {
            0xc | 0xe => (usize::from(self.u8()?), 1),
            _ => (self.u32()? as usize, 4),
        };
        let mut inner = Self {
            rest: self.take(size)?,
            budget: 0,
        };
        let count = if width == 1 {
            inner.u8()?.into()
        } else {
            inner.u32()?
        };
        if count > MAX_ELEMENTS {
            return Err(DecodeError::Elements);
        }
        Ok((inner.rest, count))
    }

    fn variable(&mut self, code: u8) -> Result<&'a [u8]> {
        let len = if code >> 4 == 0xa {
            self.u8()?.into()
        } else {
            self.u32()? as usize
        };
        self.take(len)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| DecodeError::Text)
}

/// The fields of a list, in order. Fields that the peer left out read as null.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    decoder: Decoder<'a>,
    left: u32,
}

impl<'a> Fields<'a> {
    pub(crate) fn value(&mut self) -> Result<Value> {
        if self.left == 0 {
            return Ok(Value::Null);
        }
        self.left -= 1;
        self.decoder.value()
    }

    /// The next field as it is encoded; `None` if it is null.
    pub(crate) fn raw(&mut self) -> Result<Option<&'a [u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.decoder
            .skip()
            .map(|raw| (raw != [0x40]).then_some(raw))
    }

    pub(crate) fn uint(&mut self) -> Result<Option<u32>> {
        match self.value()? {
            Value::Null => Ok(None),
            other => other
                .as_i64()
                .and_then(|n| u32::try_from(n).ok())
                .map(Some)
                .ok_or(TYPE_OF_FIELD),
        }
    }

    pub(crate) fn boolean(&mut self) -> Result<Option<bool>> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(flag)),
            _ => Err(TYPE_OF_FIELD),
        }
    }

    pub(crate) fn text(&mut self) -> Result<Option<String>> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::String(text) | Value::Symbol(text) => Ok(Some(text)),
            _ => Err(TYPE_OF_FIELD),
        }
    }
}

/// A field holds a type it cannot have; the code itself is of no interest to anybody.
const TYPE_OF_FIELD: DecodeError = DecodeError::Type(0xff);
