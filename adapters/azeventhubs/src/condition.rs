//! What the service said, dug out of the errors of the AMQP library below azeventhubs.

use std::error::Error as StdError;

use fe2o3_amqp::connection::{self, OpenError};
use fe2o3_amqp::link::{
    DetachError, LinkStateError, ReceiverAttachError, RecvError, SendError, SenderAttachError,
};
use fe2o3_amqp::session::{self, BeginError};
use fe2o3_amqp::types::definitions::{self, ErrorCondition};
use fe2o3_amqp::types::primitives::Symbol;
use fe2o3_amqp_management::error::{AttachError, Error as ManagementError};

/// The error that the peer gave, if it gave one.
pub(crate) fn remote<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a definitions::Error> {
    if let Some(error) = error.downcast_ref() {
        return of_receiving(error);
    }
    if let Some(error) = error.downcast_ref() {
        return of_receiver(error);
    }
    if let Some(error) = error.downcast_ref() {
        return of_sender(error);
    }
    if let Some(error) = error.downcast_ref::<AttachError>() {
        return match error {
            AttachError::Sender(error) => of_sender(error),
            AttachError::Receiver(error) => of_receiver(error),
        };
    }
    if let Some(error) = error.downcast_ref::<ManagementError>() {
        return match error {
            ManagementError::Recv(error) => of_receiving(error),
            ManagementError::Send(SendError::LinkStateError(error)) => of_link(error),
            ManagementError::Send(SendError::Detached(error)) => of_detach(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return of_detach(error);
    }
    match error.downcast_ref() {
        Some(BeginError::RemoteEndedWithError(error)) => return Some(error),
        Some(_) => return None,
        None => {}
    }
    match error.downcast_ref() {
        Some(session::Error::RemoteEndedWithError(error)) => return Some(error),
        Some(_) => return None,
        None => {}
    }
    match error.downcast_ref() {
        Some(OpenError::RemoteClosedWithError(error)) => return Some(error),
        Some(_) => return None,
        None => {}
    }
    match error.downcast_ref() {
        Some(connection::Error::RemoteClosedWithError(error)) => Some(error),
        _ => None,
    }
}

fn of_receiving(error: &RecvError) -> Option<&definitions::Error> {
    match error {
        RecvError::LinkStateError(error) => of_link(error),
        _ => None,
    }
}

fn of_link(error: &LinkStateError) -> Option<&definitions::Error> {
    match error {
        LinkStateError::RemoteDetachedWithError(error)
        | LinkStateError::RemoteClosedWithError(error) => Some(error),
        _ => None,
    }
}

fn of_detach(error: &DetachError) -> Option<&definitions::Error> {
    match error {
        DetachError::RemoteDetachedWithError(error) | DetachError::RemoteClosedWithError(error) => {
            Some(error)
        }
        _ => None,
    }
}

fn of_receiver(error: &ReceiverAttachError) -> Option<&definitions::Error> {
    match error {
        ReceiverAttachError::RemoteClosedWithError(error) => Some(error),
        _ => None,
    }
}

fn of_sender(error: &SenderAttachError) -> Option<&definitions::Error> {
    match error {
        SenderAttachError::RemoteClosedWithError(error) => Some(error),
        _ => None,
    }
}

/// The name of a condition as it stands on the wire.
pub(crate) fn symbol(condition: &ErrorCondition) -> String {
    match condition {
        ErrorCondition::AmqpError(condition) => Symbol::from(condition).0,
        ErrorCondition::ConnectionError(condition) => Symbol::from(condition).0,
        ErrorCondition::SessionError(condition) => Symbol::from(condition).0,
        ErrorCondition::LinkError(condition) => Symbol::from(condition).0,
        ErrorCondition::Custom(condition) => condition.0.clone(),
    }
}
