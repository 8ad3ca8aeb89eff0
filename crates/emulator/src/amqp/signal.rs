//! What reaches a connection from outside its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use super::errors::{AmqpError, condition, tracking};
use super::fault_kinds::BadFrame;
use super::fault_rules::Scope;
use crate::broker::{Claim, Listener};

/// One link of a connection, told apart from a later one on the same handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey {
    pub(crate) channel: u16,
    pub(crate) handle: u32,
    pub(crate) serial: u64,
}

/// Which event links are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventLinks {
    Receivers,
    Senders,
    Both,
}

/// A wish the connection's task carries out.
#[derive(Debug)]
pub(crate) enum Signal {
    /// The receiver on this link may have events to read.
    Ready(Arc<LinkHandle>),
    Detach(LinkKey, AmqpError),
    /// Detach the event links of a place: receivers, senders, or both.
    DetachLinks {
        scope: Scope,
        links: EventLinks,
        error: AmqpError,
    },
    /// Let the grants of this connection end, and detach the event links of a place.
    ExpireTokens(Scope),
    /// Send a frame that is none.
    BadFrame(BadFrame),
    /// End the sessions that have a link at this place, or all if none is named.
    EndSessions(Scope, AmqpError),
    Close(AmqpError),
    /// End the TCP connection without a word.
    Cut,
    /// Do this if the connection has a link at this place.
    At(Scope, Box<Self>),
    /// Look at all links again: what held them back is gone.
    Resume,
}

/// A receiver link as the broker holds it.
///
/// The channel behind it is unbounded but cannot grow: `Ready` is in it at most once per link, and
/// a link is evicted at most once.
#[derive(Debug)]
pub(crate) struct LinkHandle {
    pub(crate) key: LinkKey,
    connection: u64,
    /// `hub|group`, for the texts.
    entity: String,
    is_queued: AtomicBool,
    signals: UnboundedSender<Signal>,
    me: std::sync::Weak<Self>,
}

impl LinkHandle {
    pub(crate) fn new(
        key: LinkKey,
        connection: u64,
        entity: String,
        signals: UnboundedSender<Signal>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            key,
            connection,
            entity,
            is_queued: AtomicBool::new(false),
            signals,
            me: std::sync::Weak::clone(me),
        })
    }

    /// To be called before the link is looked after, so that a later wake-up is not lost.
    pub(crate) fn taken_from_queue(&self) {
        self.is_queued.store(false, Ordering::Release);
    }
}

impl Listener for LinkHandle {
    fn connection(&self) -> u64 {
        self.connection
    }

    fn wake(&self) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(me) = self.me.upgrade() {
            // An error means that the connection is gone, and the link with it.
            let _ = self.signals.send(Signal::Ready(me));
        }
    }

    fn evict(&self, newcomer: &Claim, own: &Claim) {
        let description = format!(
            "New receiver '{}' with higher epoch of '{}' is created hence current receiver '{}' \
             with epoch '{}' is getting disconnected. If you are recreating the receiver, make \
             sure a higher epoch is used. {}",
            receiver_name(newcomer),
            newcomer.epoch.unwrap_or(0),
            receiver_name(own),
            own.epoch.unwrap_or(-1),
            tracking(&self.entity)
        );
        let error = AmqpError::new(condition::LINK_STOLEN, description);
        let _ = self.signals.send(Signal::Detach(self.key, error));
    }
}

/// PROTOCOL: the service prints `nil` for receivers that gave no name.
pub(crate) fn receiver_name(claim: &Claim) -> &str {
    claim.name.as_deref().unwrap_or("nil")
}
