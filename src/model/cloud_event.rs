//! CloudEvents in AMQP messages: which event is one, and what its attributes are.

use std::fmt;

use super::{ReceivedEvent, Value};

/// PROTOCOL: the two prefixes of attributes (AMQP protocol binding of CloudEvents 1.0.2, 3.1.3.1): the first is what senders
/// should use, because brokers with JMS selectors take no colon; receivers take either.
const PREFIXES: [&str; 2] = ["cloudEvents_", "cloudEvents:"];

/// PROTOCOL: what the content type of the structured mode begins with (the same, 3).
const MEDIA_TYPE: &str = "application/cloudevents";

/// A CloudEvent, by the way it was put into the message; from [`ReceivedEvent::cloud_event`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CloudEvent<'a> {
    /// The attributes are application properties, the body is the data.
    Binary(CloudEventAttributes<'a>),
    /// The body is the whole event, for a decoder of CloudEvents.
    Structured {
        /// In which format, such as `application/cloudevents+json; charset=utf-8`, or `application/cloudevents-batch+json`
        /// for several in one.
        content_type: &'a str,
    },
}

/// The attributes of a CloudEvent. Its `Debug` form shows none.
#[derive(Clone, Copy)]
pub struct CloudEventAttributes<'a> {
    event: &'a ReceivedEvent,
    spec_version: &'a str,
    id: &'a str,
    source: &'a str,
    event_type: &'a str,
}

impl<'a> CloudEventAttributes<'a> {
    /// The version of CloudEvents (`specversion`): `1.0`.
    #[must_use]
    pub fn spec_version(&self) -> &'a str {
        self.spec_version
    }

    /// Tells the event from others of the same [`source`](Self::source) (`id`).
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Where it happened (`source`).
    #[must_use]
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// What happened (`type`).
    #[must_use]
    pub fn event_type(&self) -> &'a str {
        self.event_type
    }

    /// What it happened to (`subject`).
    #[must_use]
    pub fn subject(&self) -> Option<&'a str> {
        self.attribute("subject")?.as_str()
    }

    /// The type of the data (`datacontenttype`): in this mode, the content type of the message.
    #[must_use]
    pub fn data_content_type(&self) -> Option<&'a str> {
        self.event.message_properties().content_type.as_deref()
    }

    /// Any other attribute, or an extension, by its name without prefix. A time is a
    /// [`Timestamp`](Value::Timestamp) or text in the form of RFC 3339, as the sender chose.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&'a Value> {
        attribute(self.event, name)
    }
}

impl fmt::Debug for CloudEventAttributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudEventAttributes")
            .finish_non_exhaustive()
    }
}

fn attribute<'a>(event: &'a ReceivedEvent, name: &str) -> Option<&'a Value> {
    let properties = event.properties();
    PREFIXES
        .iter()
        .find_map(|prefix| properties.get(&format!("{prefix}{name}")))
}

impl ReceivedEvent {
    /// The event as a CloudEvent, if it is one: its content type says so, or it has the four attributes that none may lack.
    #[must_use]
    pub fn cloud_event(&self) -> Option<CloudEvent<'_>> {
        let content_type = self.message_properties().content_type.as_deref();
        if let Some(content_type) = content_type
            && let Some(start) = content_type.get(..MEDIA_TYPE.len())
            && start.eq_ignore_ascii_case(MEDIA_TYPE)
        {
            return Some(CloudEvent::Structured { content_type });
        }
        let text = |name| attribute(self, name)?.as_str();
        Some(CloudEvent::Binary(CloudEventAttributes {
            event: self,
            spec_version: text("specversion")?,
            id: text("id")?,
            source: text("source")?,
            event_type: text("type")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::EventParts;
    use super::*;

    fn event(prefix: &str, content_type: Option<&str>, without: Option<&str>) -> ReceivedEvent {
        let text = |text: &str| Value::String(text.to_owned());
        let mut parts = EventParts::new(0, "0", UNIX_EPOCH, "{}");
        parts.message_properties.content_type = content_type.map(str::to_owned);
        parts.properties = [
            ("specversion", text("1.0")),
            ("id", text("1234")),
            ("source", text("/pumps/7")),
            ("type", text("com.example.started")),
            ("time", Value::Timestamp(5)),
            ("sampledrate", Value::I64(30)),
        ]
        .into_iter()
        .filter(|(name, _)| Some(*name) != without)
        .map(|(name, value)| (format!("{prefix}{name}"), value))
        .collect();
        ReceivedEvent::new(parts)
    }

    #[test]
    fn attributes_have_either_prefix() {
        for prefix in PREFIXES {
            let event = event(prefix, Some("application/json"), None);
            let Some(CloudEvent::Binary(attributes)) = event.cloud_event() else {
                panic!("{prefix}");
            };
            assert_eq!(attributes.spec_version(), "1.0");
            assert_eq!(attributes.id(), "1234");
            assert_eq!(attributes.source(), "/pumps/7");
            assert_eq!(attributes.event_type(), "com.example.started");
            assert_eq!(attributes.subject(), None);
            assert_eq!(attributes.data_content_type(), Some("application/json"));
            assert_eq!(attributes.attribute("time"), Some(&Value::Timestamp(5)));
            let extension = attributes.attribute("sampledrate");
            assert_eq!(extension.and_then(Value::as_i64), Some(30));
            let printed = format!("{:?}", event.cloud_event());
            for text in ["1234", "pumps", "started"] {
                assert!(!printed.contains(text), "{printed}");
            }
        }
    }

    #[test]
    fn the_content_type_tells_of_the_structured_mode() {
        for content_type in [
            "application/cloudevents+json; charset=utf-8",
            "Application/CloudEvents+avro",
            "application/cloudevents-batch+json",
        ] {
            // Which may have the attributes as well.
            let event = event("cloudEvents:", Some(content_type), None);
            let Some(CloudEvent::Structured { content_type: seen }) = event.cloud_event() else {
                panic!("{content_type}");
            };
            assert_eq!(seen, content_type);
        }
    }

    #[test]
    fn other_events_are_none() {
        for required in ["specversion", "id", "source", "type"] {
            let event = event("cloudEvents_", None, Some(required));
            assert!(event.cloud_event().is_none(), "without {required}");
        }
        for prefix in ["", "cloudevents_", "ce_"] {
            let event = event(prefix, Some("application/cloud"), None);
            assert!(event.cloud_event().is_none(), "{prefix}");
        }
        let event = event("", Some("application/cloudeventé"), None);
        assert!(event.cloud_event().is_none(), "{:?}", event.cloud_event());
    }
}
