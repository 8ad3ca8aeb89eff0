//! What IoT Hub says about the messages of devices.

use std::time::SystemTime;

use super::{ReceivedEvent, Value};

/// What IoT Hub adds to a message that came by way of it; from [`ReceivedEvent::iot_hub`]. Whatever else it adds is among
/// the [`system_properties`](ReceivedEvent::system_properties), and what the device set in
/// [`properties`](ReceivedEvent::properties) and [`message_properties`](ReceivedEvent::message_properties).
///
/// `None` stands for what is not there, or not of the type that IoT Hub sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IotHubProperties<'a> {
    /// The device that sent the message (`iothub-connection-device-id`).
    pub device_id: &'a str,
    /// Its module that sent the message (`iothub-connection-module-id`).
    pub module_id: Option<&'a str>,
    /// When IoT Hub received the message (`iothub-enqueuedtime`). The event hub enqueues it later.
    pub enqueued_time: Option<SystemTime>,
    /// What kind of message it is (`iothub-message-source`), such as `Telemetry`, `twinChangeEvents` or
    /// `deviceLifecycleEvents`.
    pub message_source: Option<&'a str>,
    /// How the device proved who it is, as JSON (`iothub-connection-auth-method`).
    pub auth_method: Option<&'a str>,
    /// Tells devices apart that were registered under the same id one after the other
    /// (`iothub-connection-auth-generation-id`).
    pub auth_generation_id: Option<&'a str>,
    /// The model that the device says it follows (`dt-dataschema`).
    pub data_schema: Option<&'a str>,
    /// The component of the model that sent the message (`dt-subject`).
    pub subject: Option<&'a str>,
}

impl ReceivedEvent {
    /// What IoT Hub says about the message; `None` if it did not come by way of one.
    #[must_use]
    pub fn iot_hub(&self) -> Option<IotHubProperties<'_>> {
        let properties = self.system_properties();
        let text = |name: &str| properties.get(name).and_then(Value::as_str);
        Some(IotHubProperties {
            device_id: text("iothub-connection-device-id")?,
            module_id: text("iothub-connection-module-id"),
            enqueued_time: properties
                .get("iothub-enqueuedtime")
                .and_then(Value::as_time),
            message_source: text("iothub-message-source"),
            auth_method: text("iothub-connection-auth-method"),
            auth_generation_id: text("iothub-connection-auth-generation-id"),
            data_schema: text("dt-dataschema"),
            subject: text("dt-subject"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::EventParts;
    use super::*;

    #[test]
    fn what_iot_hub_adds_is_typed() {
        let text = |text: &str| Value::String(text.to_owned());
        let mut parts = EventParts::new(0, "0", UNIX_EPOCH, "");
        parts.system_properties = [
            ("iothub-connection-device-id", text("pump-7")),
            ("iothub-connection-module-id", text("filter")),
            ("iothub-connection-auth-method", text(r#"{"type":"sas"}"#)),
            ("iothub-connection-auth-generation-id", text("638")),
            ("iothub-enqueuedtime", Value::Timestamp(1_700_000_000_123)),
            ("iothub-message-source", text("Telemetry")),
            ("dt-dataschema", text("dtmi:com:example:Pump;1")),
            ("dt-subject", text("valve")),
            ("iothub-something-new", text("x")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let event = ReceivedEvent::new(parts.clone());
        let expected = IotHubProperties {
            device_id: "pump-7",
            module_id: Some("filter"),
            enqueued_time: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            message_source: Some("Telemetry"),
            auth_method: Some(r#"{"type":"sas"}"#),
            auth_generation_id: Some("638"),
            data_schema: Some("dtmi:com:example:Pump;1"),
            subject: Some("valve"),
        };
        assert_eq!(event.iot_hub(), Some(expected));

        let not_sent = ["iothub-connection-module-id", "dt-dataschema", "dt-subject"];
        for name in not_sent {
            parts.system_properties.remove(name);
        }
        let of_another_type = ("iothub-enqueuedtime".to_owned(), text("yesterday"));
        parts.system_properties.extend([of_another_type]);
        let event = ReceivedEvent::new(parts.clone());
        let expected = IotHubProperties {
            module_id: None,
            enqueued_time: None,
            data_schema: None,
            subject: None,
            ..expected
        };
        assert_eq!(event.iot_hub(), Some(expected));

        parts
            .system_properties
            .remove("iothub-connection-device-id");
        assert_eq!(ReceivedEvent::new(parts).iot_hub(), None);
    }
}
