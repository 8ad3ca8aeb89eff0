//! A key that can be replaced while clients use it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::Secret;
use super::sas::NamedKey;

/// The name and key of a shared access policy of Event Hubs, or of a storage account, that can be replaced while
/// clients use them. Clones are handles on the same key. The counterpart of `AzureNamedKeyCredential` in .NET, Python
/// and JS.
///
/// After [`update`](Self::update) everything that is signed anew is signed with the new key: each request to blob
/// storage, and each token for Event Hubs. Connections to Event Hubs that are open get tokens of the new key within two
/// seconds, long before those of the old one expire, and without a receiver being opened again. So the order of a
/// rotation is: hand over the other key, wait a moment, regenerate the first.
///
/// # Examples
///
/// ```
/// use eventhubs_processor::credential::{EventHubsCredential, NamedKeyCredential};
///
/// let key = NamedKeyCredential::new("listen", "primary key");
/// let credential = EventHubsCredential::named_key(key.clone());
/// // … hours later, the client running:
/// key.update("listen", "secondary key");
/// ```
#[derive(Clone)]
pub struct NamedKeyCredential(Arc<watch::Sender<Versioned>>);

#[derive(Clone)]
pub(crate) struct Versioned {
    pub(crate) key: NamedKey,
    /// Counts the updates.
    pub(crate) version: u64,
}

impl NamedKeyCredential {
    /// Takes a name and its key.
    pub fn new(name: impl Into<String>, key: impl Into<Secret>) -> Self {
        let key = NamedKey::new(name, key);
        Self(Arc::new(watch::Sender::new(Versioned { key, version: 0 })))
    }

    /// Replaces name and key, for everybody who holds a clone of this credential. They are not checked: what cannot be
    /// used is refused with the next token or request.
    pub fn update(&self, name: impl Into<String>, key: impl Into<Secret>) {
        let key = NamedKey::new(name, key);
        self.0.send_modify(|current| {
            current.key = key;
            current.version += 1;
        });
    }

    /// The name at present.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.borrow().key.name().to_owned()
    }

    pub(crate) fn current(&self) -> Versioned {
        self.0.borrow().clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.borrow().version
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Versioned> {
        self.0.subscribe()
    }
}

impl fmt::Debug for NamedKeyCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedKeyCredential")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_key_and_show_none() {
        let key = NamedKeyCredential::new("first", "canary-one");
        let clone = key.clone();
        key.update("second", "canary-two");
        assert_eq!(clone.name(), "second");
        assert_eq!((clone.version(), clone.current().version), (1, 1));
        let shown = format!("{key:?} {clone:#?}");
        assert!(
            shown.contains("second") && !shown.contains("canary"),
            "{shown}"
        );
    }
}
