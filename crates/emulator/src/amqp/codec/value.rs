//! One decoded AMQP value.

use bytes::Bytes;

/// An AMQP value with its type kept, so that it can be sent back as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Ubyte(u8),
    Ushort(u16),
    Uint(u32),
    Ulong(u64),
    Byte(i8),
    Short(i16),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// 4, 8 or 16 bytes as they came; nothing here computes with decimals.
    Decimal(Bytes),
    Char(u32),
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(Bytes),
    String(String),
    Symbol(String),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Array(Vec<Self>),
    Described(Box<(Self, Self)>),
}

impl Value {
    /// The text of a string or symbol.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer type, if it fits.
    pub(crate) fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Ubyte(n) => Some(n.into()),
            Self::Ushort(n) => Some(n.into()),
            Self::Uint(n) => Some(n.into()),
            Self::Ulong(n) => i64::try_from(n).ok(),
            Self::Byte(n) => Some(n.into()),
            Self::Short(n) => Some(n.into()),
            Self::Int(n) => Some(n.into()),
            Self::Long(n) | Self::Timestamp(n) => Some(n),
            _ => None,
        }
    }

    /// The value under a text key of a map, whether the key is a string or a symbol.
    pub(crate) fn entry(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(name, _)| name.as_text() == Some(key))
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The symbols of a field that may hold none, one, or an array of them.
    pub(crate) fn into_symbols(self) -> Vec<String> {
        match self {
            Self::Symbol(symbol) => vec![symbol],
            Self::Array(items) | Self::List(items) => {
                items.into_iter().flat_map(Self::into_symbols).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value without its descriptor, if it has one.
    pub(crate) fn undescribed(&self) -> &Self {
        match self {
            Self::Described(pair) => &pair.1,
            other => other,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}
