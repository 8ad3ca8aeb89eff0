//! Reads encoded AMQP values where they lie. Pure.
//!
//! The library's decoder makes owned values of everything, and what it accepts is not written down. Here one
//! function reads the start of a value and checks it; walking over a value and making a [`Value`] of it are two
//! uses of that function, so what a walk lets through can be made a value of.

use bytes::Bytes;

use crate::model::Value;

/// Deepest nesting; the scanner in front of the library's decoder has the same limit.
const MAX_DEPTH: usize = 64;

/// Most items of a list, map or array; serde_amqp has the same limit.
const MAX_ITEMS: usize = 65_536;

/// Most array elements without width in one message: they cost no bytes on the wire, but each is a value when
/// somebody asks for it.
const MAX_WIDTHLESS: usize = 4096;

/// What is left of the limits that a message has as a whole.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::amqp) struct Allowance {
    widthless: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            widthless: MAX_WIDTHLESS,
        }
    }
}

/// Bytes that are no value, or none that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport::amqp) struct Malformed;

/// The items of a list, map or array, still encoded. They have not been looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::amqp) struct Items<'a> {
    pub(in crate::transport::amqp) count: usize,
    pub(in crate::transport::amqp) bytes: &'a [u8],
}

/// The start of a value: all of it, but for the items of compounds and for what a descriptor stands before.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::amqp) enum Token<'a> {
    Null,
    Bool(bool),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal32([u8; 4]),
    Decimal64([u8; 8]),
    Decimal128([u8; 16]),
    Char(char),
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(&'a [u8]),
    String(&'a str),
    Symbol(&'a str),
    List(Items<'a>),
    Map(Items<'a>),
    /// With the constructor of its elements.
    Array(u8, Items<'a>),
    /// A descriptor and a value follow.
    Described,
}

/// A place in encoded bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::amqp) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::transport::amqp) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub(in crate::transport::amqp) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(in crate::transport::amqp) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A length or count of one byte or four.
    fn len(&mut self, is_wide: bool) -> Result<usize, Malformed> {
        if is_wide {
            // A length that does not fit is longer than anything there is.
            usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Malformed)
        } else {
            self.byte().map(usize::from)
        }
    }

    fn text(&mut self, is_wide: bool) -> Result<&'a str, Malformed> {
        let len = self.len(is_wide)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Malformed)
    }

    /// The items of a list or map.
    fn items(&mut self, is_wide: bool) -> Result<Items<'a>, Malformed> {
        let len = self.len(is_wide)?;
        let mut inner = Self::new(self.take(len)?);
        let count = inner.len(is_wide)?;
        let bytes = inner.rest;
        // Every item takes a byte at least.
        if count > bytes.len() || count > MAX_ITEMS || (count == 0 && !bytes.is_empty()) {
            return Err(Malformed);
        }
        Ok(Items { count, bytes })
    }

    fn map(&mut self, is_wide: bool) -> Result<Token<'a>, Malformed> {
        let items = self.items(is_wide)?;
        match items.count.is_multiple_of(2) {
            true => Ok(Token::Map(items)),
            false => Err(Malformed),
        }
    }

    fn elements(&mut self, is_wide: bool) -> Result<Token<'a>, Malformed> {
        let len = self.len(is_wide)?;
        let mut inner = Self::new(self.take(len)?);
        let count = inner.len(is_wide)?;
        // PROTOCOL: the constructor is there in an empty array as well, though some leave it out.
        if count == 0 && inner.is_at_end() {
            let nothing = Items { count, bytes: &[] };
            return Ok(Token::Array(0x40, nothing));
        }
        let constructor = inner.byte()?;
        let bytes = inner.rest;
        let fits = match constructor >> 4 {
            0x4 => bytes.is_empty(),
            _ => count <= bytes.len(),
        };
        // Arrays of described values are taken by nobody we know of.
        if !fits || count > MAX_ITEMS || constructor == 0 || (count == 0 && !bytes.is_empty()) {
            return Err(Malformed);
        }
        Ok(Token::Array(constructor, Items { count, bytes }))
    }

    /// The start of the next value.
    pub(in crate::transport::amqp) fn token(&mut self) -> Result<Token<'a>, Malformed> {
        let constructor = self.byte()?;
        self.token_of(constructor)
    }

    /// The start of the next value, whose constructor has been read.
    fn token_of(&mut self, constructor: u8) -> Result<Token<'a>, Malformed> {
        Ok(match constructor {
            0x00 => Token::Described,
            0x40 => Token::Null,
            0x41 => Token::Bool(true),
            0x42 => Token::Bool(false),
            0x43 => Token::U32(0),
            0x44 => Token::U64(0),
            0x45 => Token::List(Items {
                count: 0,
                bytes: &[],
            }),
            0x50 => Token::U8(self.byte()?),
            0x51 => Token::I8(i8::from_be_bytes(self.array()?)),
            0x52 => Token::U32(self.byte()?.into()),
            0x53 => Token::U64(self.byte()?.into()),
            0x54 => Token::I32(i8::from_be_bytes(self.array()?).into()),
            0x55 => Token::I64(i8::from_be_bytes(self.array()?).into()),
            0x56 => match self.byte()? {
                0 => Token::Bool(false),
                1 => Token::Bool(true),
                _ => return Err(Malformed),
            },
            0x60 => Token::U16(u16::from_be_bytes(self.array()?)),
            0x61 => Token::I16(i16::from_be_bytes(self.array()?)),
            0x70 => Token::U32(u32::from_be_bytes(self.array()?)),
            0x71 => Token::I32(i32::from_be_bytes(self.array()?)),
            0x72 => Token::F32(f32::from_be_bytes(self.array()?)),
            0x73 => {
                let code = u32::from_be_bytes(self.array()?);
                Token::Char(char::from_u32(code).ok_or(Malformed)?)
            }
            0x74 => Token::Decimal32(self.array()?),
            0x80 => Token::U64(u64::from_be_bytes(self.array()?)),
            0x81 => Token::I64(i64::from_be_bytes(self.array()?)),
            0x82 => Token::F64(f64::from_be_bytes(self.array()?)),
            0x83 => Token::Timestamp(i64::from_be_bytes(self.array()?)),
            0x84 => Token::Decimal64(self.array()?),
            0x94 => Token::Decimal128(self.array()?),
            0x98 => Token::Uuid(self.array()?),
            0xa0 | 0xb0 => {
                let len = self.len(constructor == 0xb0)?;
                Token::Binary(self.take(len)?)
            }
            0xa1 | 0xb1 => Token::String(self.text(constructor == 0xb1)?),
            0xa3 | 0xb3 => Token::Symbol(self.text(constructor == 0xb3)?),
            0xc0 | 0xd0 => Token::List(self.items(constructor == 0xd0)?),
            0xc1 | 0xd1 => self.map(constructor == 0xd1)?,
            0xe0 | 0xf0 => self.elements(constructor == 0xf0)?,
            _ => return Err(Malformed),
        })
    }

    /// Walks over the next value, with everything in it.
    pub(in crate::transport::amqp) fn skip(
        &mut self,
        allowance: &mut Allowance,
    ) -> Result<(), Malformed> {
        self.skip_nested(MAX_DEPTH, allowance)
    }

    /// Walks over what follows the start of a value.
    pub(in crate::transport::amqp) fn skip_after(
        &mut self,
        token: Token<'a>,
        allowance: &mut Allowance,
    ) -> Result<(), Malformed> {
        self.skip_rest(token, MAX_DEPTH, allowance)
    }

    fn skip_nested(&mut self, depth: usize, allowance: &mut Allowance) -> Result<(), Malformed> {
        let token = self.token()?;
        self.skip_rest(token, depth, allowance)
    }

    fn skip_rest(
        &mut self,
        token: Token<'a>,
        depth: usize,
        allowance: &mut Allowance,
    ) -> Result<(), Malformed> {
        match token {
            Token::List(items) | Token::Map(items) => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut inner = Self::new(items.bytes);
                for _ in 0..items.count {
                    inner.skip_nested(depth, allowance)?;
                }
                inner.end()
            }
            Token::Array(constructor, items) => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut inner = Self::new(items.bytes);
                if constructor >> 4 == 0x4 {
                    let widthless = allowance.widthless.checked_sub(items.count);
                    allowance.widthless = widthless.ok_or(Malformed)?;
                }
                for _ in 0..items.count {
                    let element = inner.token_of(constructor)?;
                    inner.skip_rest(element, depth, allowance)?;
                }
                inner.end()
            }
            Token::Described => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                self.descriptor()?;
                self.skip_nested(depth, allowance)
            }
            _ => Ok(()),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// PROTOCOL: a name or a number; other values are reserved.
    fn descriptor(&mut self) -> Result<Token<'a>, Malformed> {
        match self.token()? {
            token @ (Token::Symbol(_) | Token::U64(_)) => Ok(token),
            _ => Err(Malformed),
        }
    }

    /// The next value. Bytes are slices of `whole`, which is what is being read.
    pub(in crate::transport::amqp) fn value(&mut self, whole: &Bytes) -> Result<Value, Malformed> {
        let token = self.token()?;
        self.value_rest(token, MAX_DEPTH, whole)
    }

    fn value_rest(
        &mut self,
        token: Token<'a>,
        depth: usize,
        whole: &Bytes,
    ) -> Result<Value, Malformed> {
        Ok(match token {
            Token::Null => Value::Null,
            Token::Bool(truth) => Value::Bool(truth),
            Token::U8(n) => Value::U8(n),
            Token::U16(n) => Value::U16(n),
            Token::U32(n) => Value::U32(n),
            Token::U64(n) => Value::U64(n),
            Token::I8(n) => Value::I8(n),
            Token::I16(n) => Value::I16(n),
            Token::I32(n) => Value::I32(n),
            Token::I64(n) => Value::I64(n),
            Token::F32(n) => Value::F32(n),
            Token::F64(n) => Value::F64(n),
            Token::Decimal32(bytes) => Value::Decimal32(bytes),
            Token::Decimal64(bytes) => Value::Decimal64(bytes),
            Token::Decimal128(bytes) => Value::Decimal128(bytes),
            Token::Char(c) => Value::Char(c),
            Token::Timestamp(millis) => Value::Timestamp(millis),
            Token::Uuid(bytes) => Value::Uuid(bytes),
            Token::Binary(bytes) => Value::Binary(whole.slice_ref(bytes)),
            Token::String(text) => Value::String(text.to_owned()),
            Token::Symbol(text) => Value::Symbol(text.to_owned()),
            Token::List(items) => Value::List(Self::list(items, depth, whole)?),
            Token::Map(items) => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut inner = Self::new(items.bytes);
                let mut entries = Vec::with_capacity(items.count / 2);
                for _ in 0..items.count / 2 {
                    let token = inner.token()?;
                    let key = inner.value_rest(token, depth, whole)?;
                    let token = inner.token()?;
                    entries.push((key, inner.value_rest(token, depth, whole)?));
                }
                inner.end()?;
                Value::Map(entries)
            }
            Token::Array(constructor, items) => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut inner = Self::new(items.bytes);
                let mut elements = Vec::with_capacity(items.count);
                for _ in 0..items.count {
                    let token = inner.token_of(constructor)?;
                    elements.push(inner.value_rest(token, depth, whole)?);
                }
                inner.end()?;
                Value::Array(elements)
            }
            Token::Described => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let descriptor = self.descriptor()?;
                let descriptor = self.value_rest(descriptor, depth, whole)?;
                let token = self.token()?;
                Value::Described {
                    descriptor: Box::new(descriptor),
                    value: Box::new(self.value_rest(token, depth, whole)?),
                }
            }
        })
    }

    fn list(items: Items<'a>, depth: usize, whole: &Bytes) -> Result<Vec<Value>, Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let mut inner = Self::new(items.bytes);
        let mut values = Vec::with_capacity(items.count);
        for _ in 0..items.count {
            let token = inner.token()?;
            values.push(inner.value_rest(token, depth, whole)?);
        }
        inner.end()?;
        Ok(values)
    }
}
