//! What the service's error conditions mean. Pure.

use crate::error::TransportErrorKind as Kind;

/// What has to be rebuilt after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The connection and all that is on it.
    Connection,
    /// The link, or the session that stands and falls with it.
    Link,
    /// Nothing is broken, but the connection takes no more sessions.
    NoChannel,
}

/// The kind of failure that an AMQP error condition stands for. A condition nobody has heard of counts as
/// transient, as in JS and Go.
pub(in crate::transport) fn classify(condition: &str, description: &str) -> Kind {
    match condition {
        "amqp:link:stolen" => Kind::OwnershipLost,
        "amqp:not-found" | "amqp:resource-deleted" => Kind::NotFound,
        "amqp:unauthorized-access"
        | "com.microsoft:auth-failed"
        | "com.microsoft:publisher-revoked" => Kind::Unauthorized,
        "amqp:resource-limit-exceeded" => Kind::QuotaExceeded,
        "com.microsoft:entity-disabled" => Kind::Disabled,
        "com.microsoft:server-busy" => Kind::ServerBusy,
        "com.microsoft:timeout" => Kind::Timeout,
        "com.microsoft:georeplication:invalid-offset" => Kind::InvalidPosition,
        "com.microsoft:argument-error" | "com.microsoft:argument-out-of-range" => {
            classify_argument(description)
        }
        // A29: wherever these point to, credentials do not follow.
        "amqp:connection:redirect" | "amqp:link:redirect" => Kind::Rejected,
        "amqp:decode-error"
        | "amqp:frame-size-too-small"
        | "amqp:illegal-state"
        | "amqp:invalid-field"
        | "amqp:link:message-size-exceeded"
        | "amqp:not-allowed"
        | "amqp:not-implemented"
        | "amqp:precondition-failed"
        | "com.microsoft:precondition-failed"
        | "com.microsoft:message-size-exceeded" => Kind::Rejected,
        "amqp:connection:forced"
        | "amqp:connection:framing-error"
        | "com.microsoft:container-close" => Kind::ConnectionLost,
        // amqp:internal-error, amqp:resource-locked, amqp:link:detach-forced, amqp:link:transfer-limit-exceeded,
        // amqp:session:*, com.microsoft:operation-cancelled, com.microsoft:partition-not-owned, and the unknown.
        _ => Kind::LinkDetached,
    }
}

/// PROTOCOL: the service has one condition for all wrong arguments and tells them apart in the text only:
/// "The supplied offset '5' is invalid. The last offset in the system is '4'",
/// "The supplied sequence number '488' is invalid. …",
/// "The specified partition is invalid for an EventHub partition sender or receiver. …".
fn classify_argument(description: &str) -> Kind {
    let text = description.to_ascii_lowercase();
    if text.contains("supplied offset") || text.contains("supplied sequence number") {
        Kind::InvalidPosition
    } else if text.contains("specified partition is invalid") {
        Kind::NotFound
    } else {
        Kind::Rejected
    }
}

/// How far the damage of an error condition reaches.
pub(super) fn scope(condition: &str) -> Scope {
    match condition {
        "amqp:decode-error" | "com.microsoft:container-close" => Scope::Connection,
        _ if condition.starts_with("amqp:connection:") => Scope::Connection,
        // One session per receiver: what breaks a session concerns its one link only.
        _ => Scope::Link,
    }
}

/// The kind of failure that a status of `$cbs` or `$management` stands for. The condition says more than the
/// code, unless it is one that says nothing.
pub(in crate::transport) fn classify_status(
    code: i64,
    condition: Option<&str>,
    description: &str,
) -> Kind {
    match condition.map(|condition| classify(condition, description)) {
        None | Some(Kind::LinkDetached) => {}
        Some(kind) => return kind,
    }
    match code {
        400 => classify_argument(description),
        401 | 403 => Kind::Unauthorized,
        404 => Kind::NotFound,
        408 | 504 => Kind::Timeout,
        410 | 500 | 502 => Kind::LinkDetached,
        429 | 503 => Kind::ServerBusy,
        _ => Kind::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_known_condition_has_its_kind() {
        let cases = [
            ("amqp:link:stolen", "", Kind::OwnershipLost),
            (
                "amqp:link:detach-forced",
                "Idle timeout: 00:30:00.",
                Kind::LinkDetached,
            ),
            ("amqp:link:transfer-limit-exceeded", "", Kind::LinkDetached),
            ("amqp:link:message-size-exceeded", "", Kind::Rejected),
            ("amqp:link:redirect", "", Kind::Rejected),
            ("amqp:connection:redirect", "", Kind::Rejected),
            ("amqp:connection:forced", "", Kind::ConnectionLost),
            ("amqp:connection:framing-error", "", Kind::ConnectionLost),
            ("amqp:session:window-violation", "", Kind::LinkDetached),
            ("amqp:session:errant-link", "", Kind::LinkDetached),
            ("amqp:session:handle-in-use", "", Kind::LinkDetached),
            ("amqp:session:unattached-handle", "", Kind::LinkDetached),
            ("amqp:internal-error", "", Kind::LinkDetached),
            ("amqp:not-found", "", Kind::NotFound),
            ("amqp:unauthorized-access", "", Kind::Unauthorized),
            ("amqp:resource-limit-exceeded", "", Kind::QuotaExceeded),
            ("amqp:not-allowed", "", Kind::Rejected),
            ("amqp:not-implemented", "", Kind::Rejected),
            ("amqp:decode-error", "", Kind::Rejected),
            ("amqp:invalid-field", "", Kind::Rejected),
            ("amqp:illegal-state", "", Kind::Rejected),
            ("amqp:precondition-failed", "", Kind::Rejected),
            ("com.microsoft:server-busy", "", Kind::ServerBusy),
            ("com.microsoft:timeout", "", Kind::Timeout),
            ("com.microsoft:operation-cancelled", "", Kind::LinkDetached),
            ("com.microsoft:container-close", "", Kind::ConnectionLost),
            ("com.microsoft:entity-disabled", "", Kind::Disabled),
            ("com.microsoft:auth-failed", "", Kind::Unauthorized),
            ("com.microsoft:argument-error", "", Kind::Rejected),
            (
                "com.microsoft:argument-error",
                "The supplied offset '5' is invalid. The last offset in the system is '4'",
                Kind::InvalidPosition,
            ),
            (
                "com.microsoft:argument-error",
                "The supplied sequence number '488' is invalid. The last sequence number in the system is '482'",
                Kind::InvalidPosition,
            ),
            (
                "com.microsoft:argument-out-of-range",
                "The specified partition is invalid for an EventHub partition sender or receiver. It should be between 0 and 3.",
                Kind::NotFound,
            ),
            (
                "com.microsoft:georeplication:invalid-offset",
                "",
                Kind::InvalidPosition,
            ),
            ("com.contoso:never-heard-of", "", Kind::LinkDetached),
        ];
        for (condition, description, kind) in cases {
            assert_eq!(classify(condition, description), kind, "{condition}");
        }
    }

    #[test]
    fn only_errors_of_the_connection_cost_the_connection() {
        for condition in [
            "amqp:connection:forced",
            "amqp:connection:framing-error",
            "amqp:decode-error",
            "com.microsoft:container-close",
        ] {
            assert_eq!(scope(condition), Scope::Connection, "{condition}");
        }
        for condition in [
            "amqp:link:stolen",
            "amqp:link:detach-forced",
            "amqp:session:window-violation",
            "com.microsoft:server-busy",
            "com.contoso:never-heard-of",
        ] {
            assert_eq!(scope(condition), Scope::Link, "{condition}");
        }
    }

    #[test]
    fn status_codes_have_their_kinds() {
        let cases = [
            (400, Kind::Rejected),
            (401, Kind::Unauthorized),
            (403, Kind::Unauthorized),
            (404, Kind::NotFound),
            (408, Kind::Timeout),
            (429, Kind::ServerBusy),
            (500, Kind::LinkDetached),
            (501, Kind::Rejected),
            (503, Kind::ServerBusy),
        ];
        for (code, kind) in cases {
            assert_eq!(classify_status(code, None, ""), kind, "{code}");
        }
        let with = |code, condition| classify_status(code, Some(condition), "");
        assert_eq!(with(400, "amqp:not-found"), Kind::NotFound);
        assert_eq!(with(503, "amqp:internal-error"), Kind::ServerBusy);
        assert_eq!(with(500, "amqp:internal-error"), Kind::LinkDetached);
    }

    proptest! {
        #[test]
        fn unknown_vendor_conditions_are_transient(name in "[a-z-]{1,30}") {
            let condition = format!("com.contoso:{name}");
            prop_assert_eq!(classify(&condition, ""), Kind::LinkDetached);
            prop_assert_eq!(scope(&condition), Scope::Link);
        }
    }
}
