//! The selector that says where in a partition reading starts. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::EventPosition;

/// Key of the filter in the source's filter set.
pub(super) const FILTER_NAME: &str = "apache.org:selector-filter:string";

/// PROTOCOL: descriptor code of the selector filter, as JS, Go and the official Rust SDK send it.
pub(super) const FILTER_CODE: u64 = 0x0000_468C_0000_0004;

/// Longest selector sent; a longer offset is no offset of the service.
const MAX_LEN: usize = 1024;

/// The selector of a position; `None` if the position cannot be written as one.
///
/// PROTOCOL: values are quoted, as Python, JS, Go and Java do; an offset with a quote of its own would end
/// the text early, so it is refused.
pub(super) fn selector(position: &EventPosition) -> Option<String> {
    let (field, inclusive, value) = match position {
        EventPosition::Earliest => ("offset", false, "-1".to_owned()),
        EventPosition::Latest => ("offset", false, "@latest".to_owned()),
        EventPosition::Offset { offset, inclusive } => {
            ("offset", *inclusive, offset.as_str().to_owned())
        }
        EventPosition::SequenceNumber {
            sequence_number,
            inclusive,
        } => ("sequence-number", *inclusive, sequence_number.to_string()),
        EventPosition::EnqueuedTime { time, inclusive } => {
            ("enqueued-time", *inclusive, unix_millis(*time).to_string())
        }
    };
    let sound = !value.is_empty() && !value.contains(|c: char| c == '\'' || c.is_control());
    let operator = if inclusive { ">=" } else { ">" };
    let text = format!("amqp.annotation.x-opt-{field} {operator} '{value}'");
    (sound && text.len() <= MAX_LEN).then_some(text)
}

/// Whole milliseconds since the Unix epoch, negative before it.
pub(super) fn unix_millis(time: SystemTime) -> i64 {
    let clamp = |millis: u128| i64::try_from(millis).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => clamp(after.as_millis()),
        Err(before) => -clamp(before.duration().as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_position_has_its_selector() {
        let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let cases = [
            (EventPosition::Earliest, "offset > '-1'"),
            (EventPosition::Latest, "offset > '@latest'"),
            (EventPosition::Latest.inclusive(), "offset > '@latest'"),
            (EventPosition::offset("4711"), "offset > '4711'"),
            (
                EventPosition::offset("1:2:3").inclusive(),
                "offset >= '1:2:3'",
            ),
            (EventPosition::sequence_number(-1), "sequence-number > '-1'"),
            (
                EventPosition::sequence_number(7).inclusive(),
                "sequence-number >= '7'",
            ),
            (
                EventPosition::enqueued_time(time),
                "enqueued-time > '1700000000123'",
            ),
            (
                EventPosition::enqueued_time(UNIX_EPOCH - Duration::from_millis(5)).inclusive(),
                "enqueued-time >= '-5'",
            ),
        ];
        for (position, expected) in cases {
            assert_eq!(
                selector(&position).unwrap(),
                format!("amqp.annotation.x-opt-{expected}")
            );
        }
    }

    #[test]
    fn an_offset_cannot_smuggle_anything_in() {
        for offset in ["", "' OR '1'='1", "a\nb", &"9".repeat(2000)] {
            assert_eq!(selector(&EventPosition::offset(offset)), None, "{offset:?}");
        }
    }

    proptest! {
        #[test]
        fn offsets_go_out_as_they_came(offset in "[^'\\p{Cc}]{1,100}") {
            let text = selector(&EventPosition::offset(offset.as_str())).unwrap();
            prop_assert_eq!(text, format!("amqp.annotation.x-opt-offset > '{offset}'"));
        }
    }
}
