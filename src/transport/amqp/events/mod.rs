//! The way of the events past the AMQP library ([ADR-0016](../../../../docs/adr/0016-events-past-the-library.md)): the
//! guard takes transfers of event links out of the stream, and puts into the library's flows what it cannot know.

mod credit;
mod queue;
mod sessions;

pub(super) use queue::{End, Links, Payload, Registered};
pub(super) use sessions::{Diverted, Sessions};

#[cfg(test)]
mod tests;
