//! The errors of the AMQP library, told in ours.

use fe2o3_amqp::connection::{ConnectionStopReason, OpenError};
use fe2o3_amqp::link::{
    IllegalLinkStateError, LinkStateError, ReceiverAttachError, RecvError, SendError,
    SenderAttachError, SessionStopReason,
};
use fe2o3_amqp::session::BeginError;
use fe2o3_amqp_types::definitions::{self, ErrorCondition};
use fe2o3_amqp_types::primitives::Symbol;

use crate::error::{BoxError, TransportError, TransportErrorKind as Kind};
use crate::network::certificate_problem;

use super::errors::{Scope, classify, scope};

/// A failure together with what it broke.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: TransportError,
    pub(super) scope: Scope,
}

impl Failure {
    /// Only the link at hand is affected.
    pub(super) fn of_link(error: TransportError) -> Self {
        Self {
            error,
            scope: Scope::Link,
        }
    }

    /// The same once more, for another one who waits.
    pub(super) fn repeated(&self) -> Self {
        Self {
            error: self.error.repeated(),
            scope: self.scope,
        }
    }

    fn new(kind: Kind, context: String, scope: Scope) -> Self {
        Self {
            error: TransportError::new(kind, context),
            scope,
        }
    }
}

fn symbol(condition: &ErrorCondition) -> String {
    match condition {
        ErrorCondition::AmqpError(condition) => Symbol::from(condition).0,
        ErrorCondition::ConnectionError(condition) => Symbol::from(condition).0,
        ErrorCondition::SessionError(condition) => Symbol::from(condition).0,
        ErrorCondition::LinkError(condition) => Symbol::from(condition).0,
        ErrorCondition::Custom(condition) => condition.0.clone(),
    }
}

/// What the peer said when it refused or ended something.
pub(super) fn remote(doing: &str, error: &definitions::Error, least: Scope) -> Failure {
    let condition = symbol(&error.condition);
    let description = error.description.as_deref().unwrap_or_default();
    let context = if description.is_empty() {
        doing.to_owned()
    } else {
        format!("{doing}: {description}")
    };
    let scope = match least {
        Scope::Link => scope(&condition),
        Scope::Connection | Scope::NoChannel => least,
    };
    Failure {
        error: TransportError::new(classify(&condition, description), context)
            .with_condition(condition),
        scope,
    }
}

fn connection_stopped(doing: &str, reason: &ConnectionStopReason) -> Failure {
    match reason {
        ConnectionStopReason::RemoteClosedWithError(error) => {
            remote(doing, error, Scope::Connection)
        }
        // `Closed` also stands for a peer that fell silent.
        ConnectionStopReason::RemoteClosed
        | ConnectionStopReason::Closed
        | ConnectionStopReason::ClosedWithError(_) => Failure::new(
            Kind::ConnectionLost,
            format!("{doing}: the connection was lost"),
            Scope::Connection,
        ),
    }
}

fn session_stopped(doing: &str, reason: &SessionStopReason) -> Failure {
    match reason {
        SessionStopReason::ConnectionStopped(reason) => connection_stopped(doing, reason),
        SessionStopReason::RemoteEndedWithError(error) => remote(doing, error, Scope::Link),
        SessionStopReason::EndedWithError(_)
        | SessionStopReason::Ended
        | SessionStopReason::RemoteEnded => Failure::new(
            Kind::LinkDetached,
            format!("{doing}: the session ended"),
            Scope::Link,
        ),
    }
}

/// `host` is whom the certificate was expected of.
pub(super) fn open(doing: &str, error: OpenError, host: &str) -> TransportError {
    // A server that does not accept our certificate says so only now.
    if let Some(problem) = certificate_problem(&error, host) {
        let context = format!("{doing}: {problem}");
        return TransportError::new(Kind::Certificate, context).with_source(error);
    }
    match error {
        OpenError::RemoteClosedWithError(error) => remote(doing, &error, Scope::Connection).error,
        OpenError::SaslError { .. } => {
            TransportError::new(Kind::Unauthorized, format!("{doing}: SASL was refused"))
        }
        other => TransportError::new(Kind::ConnectionLost, doing).with_source(other),
    }
}

pub(super) fn begin(doing: &str, error: BeginError) -> Failure {
    match error {
        BeginError::ConnectionStopped(reason) => connection_stopped(doing, &reason),
        BeginError::RemoteEndedWithError(error) => remote(doing, &error, Scope::Link),
        BeginError::LocalChannelMaxReached => Failure::new(
            Kind::QuotaExceeded,
            format!("{doing}: no channel is free on the connection"),
            Scope::NoChannel,
        ),
        BeginError::IllegalState | BeginError::ConnectionNotOpened | BeginError::RemoteEnded => {
            Failure::new(
                Kind::ConnectionLost,
                format!("{doing}: {error}"),
                Scope::Connection,
            )
        }
    }
}

pub(super) fn attach_receiver(doing: &str, error: ReceiverAttachError) -> Failure {
    match error {
        ReceiverAttachError::SessionStopped(reason) => session_stopped(doing, &reason),
        ReceiverAttachError::RemoteClosedWithError(error) => remote(doing, &error, Scope::Link),
        other => not_attached(doing, other),
    }
}

pub(super) fn attach_sender(doing: &str, error: SenderAttachError) -> Failure {
    match error {
        SenderAttachError::SessionStopped(reason) => session_stopped(doing, &reason),
        SenderAttachError::RemoteClosedWithError(error) => remote(doing, &error, Scope::Link),
        other => not_attached(doing, other),
    }
}

fn not_attached(doing: &str, error: impl Into<BoxError>) -> Failure {
    Failure::of_link(TransportError::new(Kind::LinkDetached, doing).with_source(error))
}

pub(super) fn link_state(doing: &str, error: &LinkStateError) -> Failure {
    match error {
        LinkStateError::SessionStopped(reason) => session_stopped(doing, reason),
        LinkStateError::RemoteDetachedWithError(error)
        | LinkStateError::RemoteClosedWithError(error) => remote(doing, error, Scope::Link),
        LinkStateError::IllegalState
        | LinkStateError::RemoteDetached
        | LinkStateError::RemoteClosed
        | LinkStateError::ExpectImmediateDetach => {
            Failure::new(Kind::LinkDetached, format!("{doing}: {error}"), Scope::Link)
        }
    }
}

pub(super) fn illegal_state(doing: &str, error: IllegalLinkStateError) -> Failure {
    link_state(doing, &error.into())
}

pub(super) fn receive(doing: &str, error: RecvError) -> Failure {
    match error {
        RecvError::LinkStateError(error) => link_state(doing, &error),
        // Not the decoder's own error: it quotes what it stumbled over, and that is somebody's data.
        RecvError::MessageDecode(_) => Failure::of_link(TransportError::new(
            Kind::UndecodableMessage,
            format!("{doing}: the message is not valid AMQP"),
        )),
        RecvError::MessageSizeExceeded(error) => Failure::of_link(
            TransportError::new(Kind::UndecodableMessage, format!("{doing}: {error}"))
                .with_condition("amqp:link:message-size-exceeded"),
        ),
        other => Failure::of_link(TransportError::new(
            Kind::LinkDetached,
            format!("{doing}: {other}"),
        )),
    }
}

pub(super) fn send(doing: &str, error: SendError) -> Failure {
    match error {
        SendError::LinkStateError(error) => link_state(doing, &error),
        SendError::Detached(error) => link_state(doing, &error.into()),
        other => Failure::of_link(TransportError::new(
            Kind::Rejected,
            format!("{doing}: {other}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::definitions::{AmqpError, ConnectionError, LinkError, SessionError};

    use super::*;

    fn error(condition: impl Into<ErrorCondition>) -> definitions::Error {
        definitions::Error::new(condition, "the text".to_owned(), None)
    }

    fn stopped(reason: ConnectionStopReason) -> RecvError {
        RecvError::LinkStateError(LinkStateError::SessionStopped(
            SessionStopReason::ConnectionStopped(reason),
        ))
    }

    #[test]
    fn what_the_peer_says_is_passed_on() {
        let failure = receive(
            "receiving",
            RecvError::LinkStateError(LinkStateError::RemoteClosedWithError(error(
                LinkError::Stolen,
            ))),
        );
        assert_eq!(failure.error.kind(), Kind::OwnershipLost);
        assert_eq!(failure.error.condition(), Some("amqp:link:stolen"));
        assert_eq!(failure.scope, Scope::Link);
        assert!(failure.error.to_string().contains("the text"));
    }

    #[test]
    fn the_loss_of_a_connection_is_one_whatever_ended_it() {
        let forced =
            ConnectionStopReason::RemoteClosedWithError(error(ConnectionError::ConnectionForced));
        // A close with an odd reason costs the connection all the same.
        let odd = ConnectionStopReason::RemoteClosedWithError(error(AmqpError::InternalError));
        for (reason, kind) in [
            (ConnectionStopReason::Closed, Kind::ConnectionLost),
            (ConnectionStopReason::RemoteClosed, Kind::ConnectionLost),
            (forced, Kind::ConnectionLost),
            (odd, Kind::LinkDetached),
        ] {
            let failure = receive("receiving", stopped(reason));
            assert_eq!(failure.error.kind(), kind);
            assert_eq!(failure.scope, Scope::Connection);
            assert!(failure.error.is_transient());
        }
    }

    #[test]
    fn a_session_that_ends_costs_its_link() {
        for reason in [
            SessionStopReason::RemoteEnded,
            SessionStopReason::Ended,
            SessionStopReason::RemoteEndedWithError(error(SessionError::WindowViolation)),
        ] {
            let error = LinkStateError::SessionStopped(reason);
            let failure = link_state("receiving", &error);
            assert_eq!(failure.error.kind(), Kind::LinkDetached);
            assert_eq!(failure.scope, Scope::Link);
        }
    }

    #[test]
    fn a_refused_attach_keeps_the_reason() {
        let refused = ReceiverAttachError::RemoteClosedWithError(error(AmqpError::NotFound));
        let failure = attach_receiver("receiving", refused);
        assert_eq!(failure.error.kind(), Kind::NotFound);
        assert_eq!(failure.error.condition(), Some("amqp:not-found"));
    }
}
