//! What all connections share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::driver::Pace;
use super::errors::AmqpError;
use super::fault_rules::{FaultRules, Scope};
use super::incomplete::Incomplete;
use super::sas::Keys;
use super::signal::{EventLinks, Signal};
use crate::broker::{Broker, lock};

/// What a fault wants of a WebSocket.
#[derive(Debug)]
pub(crate) enum WebSocketOrder {
    /// A close frame.
    Close { code: u16, reason: String },
    /// So many pings at once.
    Ping { count: u32 },
}

/// How it gets there.
pub(crate) type WebSocketOrders = UnboundedSender<WebSocketOrder>;

/// Requests that a client makes too many of when it is in trouble.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) tokens_accepted: AtomicU64,
    pub(crate) tokens_refused: AtomicU64,
    pub(crate) attaches: AtomicU64,
}

/// A connection as others see it.
#[derive(Debug)]
struct Peer {
    signals: UnboundedSender<Signal>,
    web_socket: Option<WebSocketOrders>,
    /// What the peer calls itself, once it has.
    container_id: Option<String>,
}

/// A connection as the control port shows it.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) id: u64,
    pub(crate) container_id: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) broker: Broker,
    pub(crate) keys: Keys,
    pub(crate) faults: FaultRules,
    pub(crate) pace: watch::Sender<Pace>,
    pub(crate) incomplete: Incomplete,
    pub(crate) counts: Counts,
    /// Whether links and connections end when they are idle.
    pub(crate) ends_idle: bool,
    /// Whether a connection may have one pair of `$cbs` links only.
    pub(crate) has_single_cbs: bool,
    connections: Mutex<BTreeMap<u64, Peer>>,
    next_connection: AtomicU64,
}

impl Service {
    pub(crate) fn new(broker: Broker, keys: Keys) -> Self {
        Self {
            broker,
            keys,
            faults: FaultRules::default(),
            pace: watch::Sender::new(Pace::default()),
            incomplete: Incomplete::default(),
            counts: Counts::default(),
            ends_idle: false,
            has_single_cbs: false,
            connections: Mutex::new(BTreeMap::new()),
            next_connection: AtomicU64::new(1),
        }
    }

    pub(crate) fn with_idle_rules(mut self, ends_idle: bool) -> Self {
        self.ends_idle = ends_idle;
        self
    }

    pub(crate) fn with_single_cbs(mut self, is_single: bool) -> Self {
        self.has_single_cbs = is_single;
        self
    }

    pub(crate) fn enter(
        &self,
        signals: UnboundedSender<Signal>,
        web_socket: Option<WebSocketOrders>,
    ) -> u64 {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let peer = Peer {
            signals,
            web_socket,
            container_id: None,
        };
        lock(&self.connections).insert(id, peer);
        id
    }

    /// Notes what the peer of a connection calls itself.
    pub(crate) fn introduce(&self, id: u64, container_id: &str) {
        if let Some(peer) = lock(&self.connections).get_mut(&id) {
            peer.container_id = Some(container_id.to_owned());
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        lock(&self.connections).remove(&id);
    }

    pub(crate) fn connection_count(&self) -> usize {
        lock(&self.connections).len()
    }

    /// All open connections, oldest first.
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let connections = lock(&self.connections);
        let infos = connections.iter().map(|(&id, peer)| ConnectionInfo {
            id,
            container_id: peer.container_id.clone(),
        });
        infos.collect()
    }

    /// Tells every open connection.
    pub(crate) fn broadcast(&self, signal: impl Fn() -> Signal) {
        self.tell(None, signal);
    }

    /// Tells one connection, or every open one.
    pub(crate) fn tell(&self, only: Option<u64>, signal: impl Fn() -> Signal) {
        for (id, peer) in lock(&self.connections).iter() {
            if only.is_none_or(|only| only == *id) {
                // An error means that the connection has just ended.
                let _ = peer.signals.send(signal());
            }
        }
    }

    /// Tells one connection, or every open one, of those that are WebSockets; how many there were.
    pub(crate) fn order(&self, only: Option<u64>, order: impl Fn() -> WebSocketOrder) -> usize {
        let connections = lock(&self.connections);
        let meant = connections
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only == **id));
        meant
            .filter_map(|(_, peer)| peer.web_socket.as_ref())
            .filter(|web_socket| web_socket.send(order()).is_ok())
            .count()
    }

    /// Detaches everybody from an event hub, which is gone.
    pub(crate) fn detach_all(&self, hub: &str, error: &AmqpError) {
        self.broadcast(|| Signal::DetachLinks {
            scope: Scope::of(hub, None),
            links: EventLinks::Both,
            error: error.clone(),
        });
    }
}
