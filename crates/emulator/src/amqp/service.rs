//! What all connections share.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::driver::Pace;
use super::fault_rules::FaultRules;
use super::incomplete::Incomplete;
use super::sas::Keys;
use super::signal::Signal;
use crate::broker::{Broker, lock};

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) broker: Broker,
    pub(crate) keys: Keys,
    pub(crate) faults: FaultRules,
    pub(crate) pace: watch::Sender<Pace>,
    pub(crate) incomplete: Incomplete,
    /// Whether links and connections end when they are idle.
    pub(crate) ends_idle: bool,
    /// Whether a connection may have one pair of `$cbs` links only.
    pub(crate) has_single_cbs: bool,
    connections: Mutex<HashMap<u64, UnboundedSender<Signal>>>,
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
            ends_idle: false,
            has_single_cbs: false,
            connections: Mutex::new(HashMap::new()),
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

    pub(crate) fn enter(&self, signals: UnboundedSender<Signal>) -> u64 {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        lock(&self.connections).insert(id, signals);
        id
    }

    pub(crate) fn leave(&self, id: u64) {
        lock(&self.connections).remove(&id);
    }

    pub(crate) fn connection_count(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Tells every open connection.
    pub(crate) fn broadcast(&self, signal: impl Fn() -> Signal) {
        for connection in lock(&self.connections).values() {
            // An error means that the connection has just ended.
            let _ = connection.send(signal());
        }
    }
}
