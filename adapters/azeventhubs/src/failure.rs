//! The errors of azeventhubs, told in ours.

use std::error::Error as StdError;
use std::time::Duration;

use azure_core::error::ErrorKind;
use eventhubs_processor::TransportError;
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::transport::{kind_of_condition, kind_of_status};
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp_management::error::{Error as ManagementError, StatusError};

use crate::condition::{remote, symbol};

/// Tells what an error of azeventhubs means; `doing` says what failed.
pub(crate) fn failure(doing: &str, error: azure_core::Error) -> TransportError {
    let Some(cause) = error.get_ref() else {
        return TransportError::new(kind_of(error.kind()), doing).with_source(error);
    };
    if let Some(remote) = remote(cause) {
        let condition = symbol(&remote.condition);
        let description = remote.description.as_deref().unwrap_or_default();
        return TransportError::new(
            kind_of_condition(&condition, description),
            format!("{doing}: {description}"),
        )
        .with_condition(condition);
    }
    if let Some(status) = status(cause) {
        let description = status.description.as_deref().unwrap_or_default();
        let code = i64::from(status.code.0.get());
        return TransportError::new(
            kind_of_status(code, None, description),
            format!("{doing}: status {code}: {description}"),
        );
    }
    // Not with its source: the decoder quotes what it stumbled over, and that is somebody's data.
    if let Some(RecvError::MessageDecode(_)) = cause.downcast_ref() {
        return TransportError::new(
            Kind::UndecodableMessage,
            format!("{doing}: azeventhubs cannot decode the message"),
        );
    }
    // An offset that is no number, or a refusal, which azeventhubs expects to look like an answer.
    if let Some(
        ManagementError::DecodeError(_) | ManagementError::Recv(RecvError::MessageDecode(_)),
    ) = cause.downcast_ref()
    {
        return TransportError::new(
            Kind::Rejected,
            format!("{doing}: azeventhubs cannot decode the answer"),
        );
    }
    TransportError::new(kind_of(error.kind()), doing).with_source(error)
}

fn status<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a StatusError> {
    match cause.downcast_ref() {
        Some(ManagementError::Status(status)) => Some(status),
        _ => None,
    }
}

/// What is left to go by where nobody said what was wrong.
fn kind_of(kind: &ErrorKind) -> Kind {
    match kind {
        ErrorKind::Io => Kind::ConnectionLost,
        ErrorKind::Credential => Kind::Unauthorized,
        ErrorKind::HttpResponse { status, .. } => kind_of_status((*status as u16).into(), None, ""),
        _ => Kind::LinkDetached,
    }
}

pub(crate) fn timed_out(doing: &str, after: Duration) -> TransportError {
    TransportError::new(
        Kind::Timeout,
        format!("{doing}: not done within {} s", after.as_secs_f32()),
    )
}

pub(crate) fn closed(doing: &str) -> TransportError {
    TransportError::new(Kind::Closed, doing)
}
