//! `$cbs`: put-token.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::codec::Value;
use super::errors::{AmqpError, condition, tracking};
use super::request::{Reply, Request};
use super::sas::{Grants, now_s};
use super::service::Service;

/// PROTOCOL: 202 and no other success code; Rust refuses 200.
const ACCEPTED: i32 = 202;

/// The place of a `$cbs` link on its connection, free again when the link is gone.
pub(crate) type Seat = Arc<()>;

/// The places a connection has where only one pair of links is allowed.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    requests: Weak<()>,
    replies: Weak<()>,
}

impl Seats {
    /// A place for a link of this direction, if it is free.
    pub(crate) fn take(&mut self, is_receiver: bool) -> Option<Seat> {
        let place = match is_receiver {
            true => &mut self.replies,
            false => &mut self.requests,
        };
        if place.strong_count() > 0 {
            return None;
        }
        let seat = Arc::new(());
        *place = Arc::downgrade(&seat);
        Some(seat)
    }
}

/// PROTOCOL: the wording of the service.
pub(crate) fn already_open(connection: u64) -> AmqpError {
    AmqpError::new(
        condition::NOT_ALLOWED,
        format!(
            "A link to connection '{connection}' $cbs node has already been opened. {}",
            tracking("$cbs")
        ),
    )
}

/// Judges a put-token request.
pub(crate) fn answer(request: &Request, service: &Service, grants: &mut Grants) -> Reply {
    if request.property("operation") != Some("put-token") {
        return failure(400, condition::ARGUMENT, "The operation is not put-token.");
    }
    let (Some(audience), Some(token)) = (request.property("name"), request.text()) else {
        return failure(
            400,
            condition::ARGUMENT,
            "The token or its audience is missing.",
        );
    };
    if service.keys.is_checking() {
        let now_s = now_s();
        match service.keys.check(token, audience, now_s) {
            Ok(expiry_s) => grants.add(audience, expiry_s, now_s),
            Err(error) => {
                tracing::info!(audience, %error, "put-token refused");
                service
                    .counts
                    .tokens_refused
                    .fetch_add(1, Ordering::Relaxed);
                return failure(401, condition::UNAUTHORIZED, &error.to_string());
            }
        }
    }
    service
        .counts
        .tokens_accepted
        .fetch_add(1, Ordering::Relaxed);
    Reply::success(ACCEPTED, "Accepted", Value::Null)
}

/// The answer a fault orders.
pub(crate) fn answer_with(status: i32) -> Reply {
    match status {
        200..=299 => Reply::success(status, "Accepted", Value::Null),
        401 => failure(
            401,
            condition::UNAUTHORIZED,
            "InvalidSignature: The token has an invalid signature.",
        ),
        404 => failure(
            404,
            condition::NOT_FOUND,
            "The messaging entity could not be found.",
        ),
        other => failure(
            other,
            "amqp:internal-error",
            "The service could not take the token.",
        ),
    }
}

fn failure(status: i32, condition: &'static str, text: &str) -> Reply {
    Reply::failure(status, condition, format!("{text} {}", tracking("$cbs")))
}
