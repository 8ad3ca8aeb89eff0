//! Error conditions and texts of the service.

use std::borrow::Cow;
use std::fmt;

/// Condition symbols.
pub(crate) mod condition {
    pub(crate) const CONNECTION_REDIRECT: &str = "amqp:connection:redirect";
    pub(crate) const LINK_REDIRECT: &str = "amqp:link:redirect";
    pub(crate) const ENTITY_DISABLED: &str = "com.microsoft:entity-disabled";
    pub(crate) const ARGUMENT: &str = "com.microsoft:argument-error";
    pub(crate) const ARGUMENT_OUT_OF_RANGE: &str = "com.microsoft:argument-out-of-range";
    pub(crate) const CONNECTION_FORCED: &str = "amqp:connection:forced";
    pub(crate) const DECODE: &str = "amqp:decode-error";
    pub(crate) const DETACH_FORCED: &str = "amqp:link:detach-forced";
    pub(crate) const FRAMING: &str = "amqp:connection:framing-error";
    pub(crate) const GEO_OFFSET: &str = "com.microsoft:georeplication:invalid-offset";
    pub(crate) const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
    pub(crate) const INTERNAL: &str = "amqp:internal-error";
    pub(crate) const LINK_STOLEN: &str = "amqp:link:stolen";
    pub(crate) const MESSAGE_SIZE: &str = "amqp:link:message-size-exceeded";
    pub(crate) const NOT_ALLOWED: &str = "amqp:not-allowed";
    pub(crate) const NOT_FOUND: &str = "amqp:not-found";
    pub(crate) const RESOURCE_LIMIT: &str = "amqp:resource-limit-exceeded";
    pub(crate) const SERVER_BUSY: &str = "com.microsoft:server-busy";
    pub(crate) const TRANSFER_LIMIT: &str = "amqp:link:transfer-limit-exceeded";
    pub(crate) const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
    pub(crate) const UNAUTHORIZED: &str = "amqp:unauthorized-access";
    pub(crate) const WINDOW_VIOLATION: &str = "amqp:session:window-violation";
}

/// What a detach, end, close or rejection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpError {
    pub(crate) condition: Cow<'static, str>,
    pub(crate) description: String,
    /// Where to go instead, for the two conditions that say so.
    pub(crate) redirect: Option<(String, u16)>,
}

impl AmqpError {
    pub(crate) fn new(
        condition: impl Into<Cow<'static, str>>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            condition: condition.into(),
            description: description.into(),
            redirect: None,
        }
    }

    /// The same, sending the peer elsewhere.
    pub(crate) fn to(mut self, host: &str, port: u16) -> Self {
        self.redirect = Some((host.to_owned(), port));
        self
    }
}

impl fmt::Display for AmqpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition, self.description)
    }
}

/// The tail the service puts behind its texts.
/// INTEROP: Python parses it and fails if one of the three parts is missing where it expects them.
pub(crate) fn tracking(entity: &str) -> String {
    let id = uuid::Uuid::new_v4().simple();
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    format!("TrackingId:{id}_G0, SystemTracker:emulator:eventhub:{entity}, Timestamp:{now}")
}

pub(crate) fn entity_not_found(entity: &str) -> AmqpError {
    AmqpError::new(condition::NOT_FOUND, not_found_text(entity))
}

/// INTEROP: JS and Java know a missing entity by this wording.
pub(crate) fn not_found_text(entity: &str) -> String {
    format!(
        "The messaging entity 'sb://emulator/{entity}' could not be found. To know more visit \
         https://aka.ms/sbResourceMgrExceptions. {}",
        tracking(entity)
    )
}

/// The condition is the service's, the wording a guess.
pub(crate) fn disabled(hub: &str) -> AmqpError {
    AmqpError::new(
        condition::ENTITY_DISABLED,
        format!("The entity '{hub}' is disabled. {}", tracking(hub)),
    )
}

pub(crate) fn partition_out_of_range(hub: &str, partitions: usize) -> AmqpError {
    AmqpError::new(
        condition::ARGUMENT_OUT_OF_RANGE,
        format!(
            "The specified partition is invalid for an EventHub partition sender or receiver. It \
             should be between 0 and {}. {}",
            partitions.saturating_sub(1),
            tracking(hub)
        ),
    )
}

pub(crate) fn unauthorized(claim: &str, entity: &str) -> AmqpError {
    AmqpError::new(
        condition::UNAUTHORIZED,
        format!(
            "Unauthorized access. '{claim}' claim(s) are required to perform this operation. \
             Resource: 'sb://emulator/{entity}'. {}",
            tracking(entity)
        ),
    )
}

pub(crate) fn message_too_large(delivery_id: u32, size: usize, limit: usize) -> AmqpError {
    AmqpError::new(
        condition::MESSAGE_SIZE,
        format!(
            "The received message (delivery-id:{delivery_id}, size:{size} bytes) exceeds the limit \
             ({limit} bytes) currently allowed on the link."
        ),
    )
}

/// INTEROP: SDKs know the condition; people look for the code.
pub(crate) fn server_busy(entity: &str) -> AmqpError {
    AmqpError::new(
        condition::SERVER_BUSY,
        format!(
            "The request was terminated because the entity is being throttled. Error code : 50002. \
             Please wait 4 seconds and try again. {}",
            tracking(entity)
        ),
    )
}
