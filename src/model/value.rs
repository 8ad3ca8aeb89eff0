//! Typed values of message properties.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// PROTOCOL: what .NET calls its own types on the wire; their values are ticks of 100 ns, and text.
const DOTNET_TIME_SPAN: &str = "com.microsoft:timespan";
const DOTNET_DATE_TIME_OFFSET: &str = "com.microsoft:datetime-offset";
const DOTNET_URI: &str = "com.microsoft:uri";

const TICKS_PER_SECOND: u64 = 10_000_000;

/// The Unix epoch in ticks since the first of January of the year 1.
const UNIX_EPOCH_TICKS: i64 = 621_355_968_000_000_000;

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

    /// The time of a timestamp or of a .NET `DateTimeOffset`; `None` also for one that this machine cannot represent.
    #[must_use]
    pub fn as_time(&self) -> Option<SystemTime> {
        let (is_past, distance) = match self {
            Self::Timestamp(millis) => (*millis < 0, Duration::from_millis(millis.unsigned_abs())),
            _ => match self.described(DOTNET_DATE_TIME_OFFSET)? {
                Self::I64(ticks) => {
                    let ticks = ticks.checked_sub(UNIX_EPOCH_TICKS)?;
                    (ticks < 0, of_ticks(ticks.unsigned_abs()))
                }
                _ => return None,
            },
        };
        match is_past {
            true => UNIX_EPOCH.checked_sub(distance),
            false => UNIX_EPOCH.checked_add(distance),
        }
    }

    /// The length of a .NET `TimeSpan`; `None` also for a negative one.
    #[must_use]
    pub fn as_duration(&self) -> Option<Duration> {
        match self.described(DOTNET_TIME_SPAN)? {
            Self::I64(ticks) => u64::try_from(*ticks).ok().map(of_ticks),
            _ => None,
        }
    }

    /// The text of a .NET `Uri`.
    #[must_use]
    pub fn as_uri(&self) -> Option<&str> {
        self.described(DOTNET_URI)?.as_str()
    }

    /// The value that is described by a symbol.
    fn described(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Described { descriptor, value } => {
                matches!(&**descriptor, Self::Symbol(symbol) if symbol == name).then_some(&**value)
            }
            _ => None,
        }
    }
}

fn of_ticks(ticks: u64) -> Duration {
    // Less than 10^9.
    let nanos = u32::try_from(ticks % TICKS_PER_SECOND * 100).unwrap_or(0);
    Duration::new(ticks / TICKS_PER_SECOND, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, value: Value) -> Value {
        Value::Described {
            descriptor: Box::new(Value::Symbol(name.to_owned())),
            value: Box::new(value),
        }
    }

    #[test]
    fn types_of_dotnet_have_their_own_meaning() {
        // 1.5 s, and the first second of 2000.
        let span = described("com.microsoft:timespan", Value::I64(15_000_000));
        assert_eq!(span.as_duration(), Some(Duration::from_millis(1500)));
        let time = described(
            "com.microsoft:datetime-offset",
            Value::I64(630_822_816_000_000_001),
        );
        let millennium = UNIX_EPOCH + Duration::new(946_684_800, 100);
        assert_eq!(time.as_time(), Some(millennium));
        let uri = described("com.microsoft:uri", Value::String("a:b".to_owned()));
        assert_eq!(uri.as_uri(), Some("a:b"));
        for value in [&span, &time, &uri] {
            let answers = [
                value.as_duration().is_some(),
                value.as_time().is_some(),
                value.as_uri().is_some(),
            ];
            assert_eq!(answers.iter().filter(|answer| **answer).count(), 1);
        }
    }

    #[test]
    fn times_before_the_epoch_and_beyond_the_clock_are_no_trouble() {
        let before = Value::Timestamp(-1).as_time();
        assert_eq!(before, Some(UNIX_EPOCH - Duration::from_millis(1)));
        let first = described("com.microsoft:datetime-offset", Value::I64(0)).as_time();
        assert!(first.is_none_or(|time| time < UNIX_EPOCH));
        for number in [i64::MIN, -1, i64::MAX] {
            let _ = Value::Timestamp(number).as_time();
            let _ = described("com.microsoft:datetime-offset", Value::I64(number)).as_time();
            let _ = described("com.microsoft:timespan", Value::I64(number)).as_duration();
        }
        let negative = described("com.microsoft:timespan", Value::I64(-1));
        assert_eq!(negative.as_duration(), None);
        assert_eq!(Value::I64(5).as_time(), None);
    }
}
