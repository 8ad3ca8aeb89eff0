//! Start positions as receivers write them: a small subset of SQL in a source filter.

use thiserror::Error;

use super::codec::Value;
use super::limits::MAX_FILTER;
use crate::broker::Position;

const FILTER: &str = "apache.org:selector-filter:string";

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SelectorError {
    #[error("The filter is longer than {MAX_FILTER} bytes.")]
    TooLong,
    #[error("The filter expression '{0}' is not understood.")]
    Syntax(String),
}

/// The position a source filter asks for. Without a filter a receiver reads from the start.
///
/// INTEROP: the value is described by a symbol (Python, Java) or one of two numbers (JS, Go, Rust;
/// .NET), so the descriptor is not looked at. Other filters are ignored.
pub(crate) fn position(filter: &Value) -> Result<Position, SelectorError> {
    match filter
        .entry(FILTER)
        .map(Value::undescribed)
        .and_then(Value::as_text)
    {
        Some(text) => parse(text),
        None => Ok(Position::Start),
    }
}

fn parse(text: &str) -> Result<Position, SelectorError> {
    if text.len() > MAX_FILTER {
        return Err(SelectorError::TooLong);
    }
    let syntax = || SelectorError::Syntax(text.to_owned());
    let expression = text
        .trim()
        .strip_prefix("amqp.annotation.")
        .ok_or_else(syntax)?;
    let (field, comparison) = expression
        .split_at_checked(expression.find('>').ok_or_else(syntax)?)
        .ok_or_else(syntax)?;
    let comparison = comparison.strip_prefix('>').ok_or_else(syntax)?;
    let (inclusive, value) = match comparison.strip_prefix('=') {
        Some(value) => (true, value),
        None => (false, comparison),
    };
    let value = unquoted(value.trim()).ok_or_else(syntax)?;
    let number = || value.parse::<i64>().map_err(|_| syntax());
    match field.trim() {
        // INTEROP: .NET and Java may write ">= '-1'".
        "x-opt-offset" if value == "-1" => Ok(Position::Start),
        "x-opt-offset" if value == "@latest" => Ok(Position::End),
        "x-opt-offset" => Ok(Position::Offset {
            text: value.to_owned(),
            inclusive,
        }),
        "x-opt-sequence-number" => match number()? {
            ..0 => Ok(Position::Start),
            number => Ok(Position::SequenceNumber { number, inclusive }),
        },
        "x-opt-enqueued-time" => Ok(Position::EnqueuedTime {
            millis: number()?,
            inclusive,
        }),
        _ => Err(syntax()),
    }
}

/// INTEROP: .NET writes values without quotes, the others with.
fn unquoted(text: &str) -> Option<&str> {
    let inner = match text.strip_prefix('\'') {
        Some(rest) => rest.strip_suffix('\'')?,
        None => text,
    };
    (!inner.is_empty() && !inner.contains('\'')).then_some(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offset(text: &str, inclusive: bool) -> Position {
        Position::Offset {
            text: text.to_owned(),
            inclusive,
        }
    }

    #[test]
    fn reads_the_spellings_of_all_sdks() {
        for (text, expected) in [
            ("amqp.annotation.x-opt-offset > '-1'", Position::Start),
            ("amqp.annotation.x-opt-offset >= '-1'", Position::Start),
            ("amqp.annotation.x-opt-offset > '@latest'", Position::End),
            ("amqp.annotation.x-opt-offset > @latest", Position::End),
            ("amqp.annotation.x-opt-offset >'12'", offset("12", false)),
            ("amqp.annotation.x-opt-offset >='12'", offset("12", true)),
            ("amqp.annotation.x-opt-offset > 12", offset("12", false)),
            (
                "amqp.annotation.x-opt-offset > '1:2:3'",
                offset("1:2:3", false),
            ),
            (
                "amqp.annotation.x-opt-sequence-number >= '7'",
                Position::SequenceNumber {
                    number: 7,
                    inclusive: true,
                },
            ),
            (
                "amqp.annotation.x-opt-sequence-number > '-1'",
                Position::Start,
            ),
            (
                "amqp.annotation.x-opt-enqueued-time > '1700000000000'",
                Position::EnqueuedTime {
                    millis: 1_700_000_000_000,
                    inclusive: false,
                },
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_position() {
        for text in [
            "",
            "x-opt-offset > '1'",
            "amqp.annotation.x-opt-offset = '1'",
            "amqp.annotation.x-opt-offset > '1",
            "amqp.annotation.x-opt-offset > ''",
            "amqp.annotation.x-opt-sequence-number > 'x'",
            "amqp.annotation.x-opt-other > '1'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse(&"(".repeat(100_000)), Err(SelectorError::TooLong));
    }

    #[test]
    fn takes_the_filter_with_any_descriptor_and_none() {
        let text = Value::from("amqp.annotation.x-opt-offset > '@latest'");
        for descriptor in [
            Value::Symbol(FILTER.to_owned()),
            Value::Ulong(0x0000_468c_0000_0004),
            Value::Ulong(0x0000_0013_7000_000a),
        ] {
            let described = Value::Described(Box::new((descriptor, text.clone())));
            let filter = Value::Map(vec![(Value::Symbol(FILTER.to_owned()), described)]);
            assert_eq!(position(&filter), Ok(Position::End));
        }
        let bare = Value::Map(vec![(Value::Symbol(FILTER.to_owned()), text)]);
        assert_eq!(position(&bare), Ok(Position::End));
        assert_eq!(position(&Value::Null), Ok(Position::Start));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("amqp.annotation.x-opt-offset >{text}"));
        }
    }
}
