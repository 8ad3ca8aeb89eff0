//! The fuzz targets of what applications put into events.

use std::time::UNIX_EPOCH;

use super::{CloudEvent, EventParts, ReceivedEvent, Value};

const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

fn event(content_type: Option<&str>, properties: &[(String, Value)]) -> ReceivedEvent {
    let mut parts = EventParts::new(0, "0", UNIX_EPOCH, "");
    parts.message_properties.content_type = content_type.map(str::to_owned);
    parts.properties = properties.iter().cloned().collect();
    ReceivedEvent::new(parts)
}

/// A content type, and lines of `name=value`: an event is no CloudEvent, or one whose attributes are those of the
/// properties, whichever prefix they have; and its `Debug` form shows none.
pub(crate) fn cloud_event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let content_type = lines.next().filter(|line| !line.is_empty());
    let properties: Vec<_> = lines.filter_map(property).collect();
    let event = event(content_type, &properties);
    let says_so = content_type.is_some_and(|content_type| {
        let folded = content_type.to_ascii_lowercase();
        folded.starts_with("application/cloudevents")
    });
    let value = |name: &str| {
        ["cloudEvents_", "cloudEvents:"].iter().find_map(|prefix| {
            let full = format!("{prefix}{name}");
            event.properties().get(&full)
        })
    };
    match event.cloud_event() {
        Some(CloudEvent::Structured { content_type: seen }) => {
            assert!(says_so);
            assert_eq!(Some(seen), content_type);
        }
        Some(CloudEvent::Binary(attributes)) => {
            assert!(!says_so);
            let four = [
                attributes.spec_version(),
                attributes.id(),
                attributes.source(),
                attributes.event_type(),
            ];
            for (name, text) in REQUIRED.iter().zip(four) {
                assert_eq!(value(name).and_then(Value::as_str), Some(text));
            }
            assert_eq!(
                attributes.subject(),
                value("subject").and_then(Value::as_str)
            );
            assert_eq!(attributes.data_content_type(), content_type);
            assert_eq!(format!("{attributes:?}"), "CloudEventAttributes { .. }");
            same_under_each_prefix(&event);
        }
        None => {
            let lacks = |name: &&str| value(name).and_then(Value::as_str).is_none();
            assert!(!says_so && REQUIRED.iter().any(lacks));
        }
    }
}

fn property(line: &str) -> Option<(String, Value)> {
    let (name, text) = line.split_once('=')?;
    let value = match text.split_once(':') {
        Some(("i64", number)) => Value::I64(number.parse().ok()?),
        Some(("time", number)) => Value::Timestamp(number.parse().ok()?),
        _ => Value::String(text.to_owned()),
    };
    Some((name.to_owned(), value))
}

/// A sender may choose the prefix.
fn same_under_each_prefix(event: &ReceivedEvent) {
    for prefix in ["cloudEvents_", "cloudEvents:"] {
        let names = event.properties().keys().filter_map(|full| {
            full.strip_prefix("cloudEvents_")
                .or_else(|| full.strip_prefix("cloudEvents:"))
        });
        let Some(CloudEvent::Binary(before)) = event.cloud_event() else {
            panic!("not the same twice");
        };
        let properties: Vec<_> = names
            .filter_map(|name| Some((format!("{prefix}{name}"), before.attribute(name)?.clone())))
            .collect();
        let content_type = event.message_properties().content_type.as_deref();
        let other = self::event(content_type, &properties);
        let Some(CloudEvent::Binary(after)) = other.cloud_event() else {
            panic!("not one with {prefix}");
        };
        for name in REQUIRED.iter().chain(&["subject", "time"]) {
            assert_eq!(before.attribute(name), after.attribute(name), "{name}");
        }
    }
}

/// `traceparent`, `Diagnostic-Id` and `tracestate`, a line each: what is taken is a context by the book, the first that
/// is one, and the same read again; what is left out is none.
pub(crate) fn trace_context(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let [parent, older, state] = [(); 3].map(|()| lines.next());
    let with = |pairs: &[(&str, Option<&str>)]| {
        let pairs: Vec<_> = pairs
            .iter()
            .filter_map(|(name, text)| Some(((*name).to_owned(), Value::String((*text)?.into()))))
            .collect();
        event(None, &pairs)
    };
    let sent = with(&[
        ("traceparent", parent),
        ("Diagnostic-Id", older),
        ("tracestate", state),
    ]);
    let expected = [parent, older]
        .into_iter()
        .flatten()
        .find(|text| is_parent(text));
    let Some(context) = sent.trace_context() else {
        return assert_eq!(expected, None);
    };
    assert_eq!(Some(context.trace_parent()), expected);
    let fields: Vec<&str> = context.trace_parent().split('-').collect();
    assert_eq!(
        (context.trace_id(), context.parent_id()),
        (fields[1], fields[2])
    );
    assert_eq!(
        context.is_sampled(),
        fields[3].ends_with(|digit: char| "13579bdf".contains(digit))
    );
    if let Some(taken) = context.trace_state() {
        assert_eq!(Some(taken), state);
        // It becomes a header and a field of a log.
        assert!(taken.len() <= 4096 && !taken.contains(|c: char| c != '\t' && c.is_control()));
    }
    let again = with(&[
        ("traceparent", Some(context.trace_parent())),
        ("tracestate", context.trace_state()),
    ]);
    assert_eq!(again.trace_context(), Some(context));
}

/// W3C Trace Context, 3.2, read once more.
fn is_parent(text: &str) -> bool {
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags, more @ ..] = &fields[..] else {
        return false;
    };
    let is_hex = |field: &str, length: usize| {
        field.len() == length && field.chars().all(|c| "0123456789abcdef".contains(c))
    };
    let is_id = |field: &str, length| is_hex(field, length) && field.contains(|c: char| c != '0');
    let may_have_more = *version != "00" && more.concat().chars().all(|c| c.is_ascii_graphic());
    is_hex(version, 2)
        && *version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && (more.is_empty() || may_have_more)
        && text.len() <= 128
}
