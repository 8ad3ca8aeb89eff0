//! Links: what each kind keeps.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::cbs::Seat;
use super::codec::incoming::Transfer;
use super::consumer::Consumer;
use super::delivery::{Credit, Delivery};
use super::errors::{AmqpError, condition};
use super::incomplete::{Incomplete, Part};
use super::limits::{MAX_MESSAGE, MAX_PENDING_REPLIES};

/// A link; both ends use the handle the peer chose, which is unique among all since only peers
/// start links.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) serial: u64,
    pub(crate) name: String,
    /// The path that has to stay authorized while the link is up, for event links.
    pub(crate) resource: Option<String>,
    /// It is in the connection's line of links that may have something to send.
    pub(crate) is_ready: bool,
    /// When a frame of it last went either way.
    pub(crate) last_traffic: Instant,
    pub(crate) kind: LinkKind,
}

#[derive(Debug)]
pub(crate) enum LinkKind {
    /// The peer sends requests.
    Requests {
        node: Node,
        incoming: Incoming,
        _seat: Option<Seat>,
    },
    /// The peer receives replies.
    Replies(Box<Replies>),
    /// The peer sends events.
    Publisher {
        target: PublishTarget,
        incoming: Incoming,
    },
    /// The peer receives events.
    Consumer(Box<Consumer>),
    /// We have detached; what still comes for this handle is ignored until the peer has as well.
    Detached,
    /// Fault: the attach gets no answer.
    Unanswered,
}

impl LinkKind {
    /// The event hub and the partition of an event link, for the scopes of faults.
    pub(crate) fn place(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Consumer(consumer) => consumer.place(),
            Self::Publisher { target, .. } => target.place(),
            Self::Requests { .. } | Self::Replies(_) | Self::Detached | Self::Unanswered => {
                (None, None)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Cbs,
    Management,
}

#[derive(Debug, Clone)]
pub(crate) struct PublishTarget {
    pub(crate) hub: std::sync::Arc<crate::broker::Hub>,
    pub(crate) partition: Option<String>,
}

impl PublishTarget {
    pub(crate) fn place(&self) -> (Option<&str>, Option<&str>) {
        (Some(self.hub.name()), self.partition.as_deref())
    }
}

#[derive(Debug)]
pub(crate) struct Replies {
    pub(crate) node: Node,
    pub(crate) target: Option<String>,
    pub(crate) settled: bool,
    pub(crate) credit: Credit,
    pub(crate) queue: VecDeque<Bytes>,
    pub(crate) unsent: Option<Delivery>,
    pub(crate) _seat: Option<Seat>,
}

impl Replies {
    /// Queues a reply; false if too many wait already.
    pub(crate) fn push(&mut self, reply: Bytes) -> bool {
        let has_room = self.queue.len() < MAX_PENDING_REPLIES;
        if has_room {
            self.queue.push_back(reply);
        }
        has_room
    }
}

/// The receiving end of a link: credit given, and the message that is being put together.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) delivery_count: u32,
    pub(crate) credit_left: u32,
    credit: u32,
    incomplete: Incomplete,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    delivery_id: u32,
    message_format: u32,
    is_settled: bool,
    size: usize,
    bytes: BytesMut,
    part: Part,
}

/// A message that arrived whole.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) delivery_id: u32,
    pub(crate) message_format: u32,
    pub(crate) is_settled: bool,
    pub(crate) size: usize,
    /// None if it was too large to be kept.
    pub(crate) bytes: Option<Bytes>,
}

impl Incoming {
    pub(crate) fn new(initial_delivery_count: u32, credit: u32, incomplete: Incomplete) -> Self {
        Self {
            delivery_count: initial_delivery_count,
            credit_left: credit,
            credit,
            incomplete,
            partial: None,
        }
    }

    /// Gives full credit again once half of it is used; true if the peer is to be told.
    pub(crate) fn refill(&mut self) -> bool {
        let is_low = self.credit_left <= self.credit / 2;
        if is_low {
            self.credit_left = self.credit;
        }
        is_low
    }

    /// Takes one frame of a message.
    pub(crate) fn take(&mut self, transfer: Transfer) -> Result<Option<Arrived>, AmqpError> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => self.start(&transfer)?,
        };
        if transfer.aborted {
            return Ok(None);
        }
        // PROTOCOL: settled counts if any frame of the delivery says so (AMQP 2.7.5).
        partial.is_settled |= transfer.settled.unwrap_or(false);
        partial.size += transfer.payload.len();
        if partial.size > MAX_MESSAGE {
            partial.bytes = BytesMut::new();
            partial.part = self.incomplete.part();
        }
        let is_single = !transfer.more && partial.size == transfer.payload.len();
        if !is_single && partial.size <= MAX_MESSAGE {
            if !partial.part.grow(transfer.payload.len()) {
                return Err(AmqpError::new(
                    condition::RESOURCE_LIMIT,
                    "too many bytes of incomplete messages",
                ));
            }
            partial.bytes.extend_from_slice(&transfer.payload);
        }
        if transfer.more {
            self.partial = Some(partial);
            return Ok(None);
        }
        let bytes = if is_single {
            transfer.payload
        } else {
            partial.bytes.freeze()
        };
        Ok(Some(Arrived {
            delivery_id: partial.delivery_id,
            message_format: partial.message_format,
            is_settled: partial.is_settled,
            size: partial.size,
            bytes: (partial.size <= MAX_MESSAGE).then_some(bytes),
        }))
    }

    fn start(&mut self, transfer: &Transfer) -> Result<Partial, AmqpError> {
        let delivery_id = transfer.delivery_id.ok_or_else(|| {
            AmqpError::new(
                condition::NOT_ALLOWED,
                "the first transfer of a delivery has no id",
            )
        })?;
        self.credit_left = self.credit_left.checked_sub(1).ok_or_else(|| {
            AmqpError::new(
                condition::TRANSFER_LIMIT,
                "more transfers than credit was given for",
            )
        })?;
        self.delivery_count = self.delivery_count.wrapping_add(1);
        Ok(Partial {
            delivery_id,
            message_format: transfer.message_format.unwrap_or(0),
            is_settled: false,
            size: 0,
            bytes: BytesMut::new(),
            part: self.incomplete.part(),
        })
    }
}
