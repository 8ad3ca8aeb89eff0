//! What is wrong with who we are, over all connections of a client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::grants::Grants;
use crate::error::{LastError, TransportError};

#[derive(Clone, Debug, Default)]
pub(super) struct Trouble(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The last renewal that failed, until somebody asks.
    untold: Option<TransportError>,
    /// What each connection has been granted, for as long as it lives.
    grants: Vec<Weak<Grants>>,
}

impl Trouble {
    /// Looks at the grants of another connection as well.
    pub(super) fn watch(&self, grants: &Arc<Grants>) {
        let mut state = self.lock();
        state.grants.retain(|grants| grants.strong_count() > 0);
        state.grants.push(Arc::downgrade(grants));
    }

    pub(super) fn note(&self, error: TransportError) {
        self.lock().untold = Some(error);
    }

    pub(super) fn take(&self) -> Option<TransportError> {
        self.lock().untold.take()
    }

    /// The last failure that no success has followed.
    pub(super) fn standing(&self) -> Option<LastError> {
        let grants = self.lock().grants.clone();
        let alive = grants.iter().filter_map(Weak::upgrade);
        alive
            .filter_map(|grants| grants.trouble())
            .max_by_key(|error| error.time)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
