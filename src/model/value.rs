//! Typed values of message properties.

use bytes::Bytes;

/// A value of the AMQP type system, as it stands in application properties, annotations and value bodies.
///
/// Every type that a producer in any language can send has its own variant, so that a value read here
/// and sent on keeps its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// No value.
    Null,
    /// `boolean`
    Bool(bool),
    /// `ubyte`
    U8(u8),
    /// `ushort`
    U16(u16),
    /// `uint`
    U32(u32),
    /// `ulong`
    U64(u64),
    /// `byte`
    I8(i8),
    /// `short`
    I16(i16),
    /// `int`
    I32(i32),
    /// `long`
    I64(i64),
    /// `float`
    F32(f32),
    /// `double`
    F64(f64),
    /// `decimal32`, as its four bytes in IEEE 754 form
    Decimal32([u8; 4]),
    /// `decimal64`, as its eight bytes in IEEE 754 form
    Decimal64([u8; 8]),
    /// `decimal128`, as its sixteen bytes in IEEE 754 form
    Decimal128([u8; 16]),
    /// `char`
    Char(char),
    /// `timestamp`: milliseconds since the Unix epoch
    Timestamp(i64),
    /// `uuid`, in network order
    Uuid([u8; 16]),
    /// `binary`
    Binary(Bytes),
    /// `string`
    String(String),
    /// `symbol`
    Symbol(String),
    /// `list`
    List(Vec<Self>),
    /// `map`, in the order of the wire
    Map(Vec<(Self, Self)>),
    /// `array`: all of one type
    Array(Vec<Self>),
    /// A described value, such as the `com.microsoft:datetime-offset` that .NET sends
    Described {
        /// What the value is: a symbol or a number.
        descriptor: Box<Self>,
        /// The value itself.
        value: Box<Self>,
    },
}

impl Value {
    /// The text of a string or symbol.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// The number of any integer type, if it fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => n.try_into().ok(),
            Self::I8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::I64(n) => Some(n),
            _ => None,
        }
    }

    /// The number of either floating-point type.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(n) => Some(n.into()),
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    /// The truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// The bytes of a binary value.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }
}
