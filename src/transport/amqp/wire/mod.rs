//! AMQP as bytes: reading values, messages and performatives where they lie, without decoding what nobody asks for.
//! Pure.

pub(super) mod message;
pub(super) mod performative;
mod read;

pub(super) use read::Malformed;
