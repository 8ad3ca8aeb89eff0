//! The stored state, changed by hand and not by requests.

use bytes::Bytes;

use super::{
    auth::{AccountKey, InvalidKey},
    conditions::Conditions,
    errors::{ErrorCode, StorageError},
    metadata::Metadata,
    request::Operation,
    service::BlobService,
    state::ContentHeaders,
};

/// A handle on what is stored; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct BlobAccount {
    pub(super) service: BlobService,
}

impl BlobAccount {
    /// An account nobody serves.
    #[cfg(feature = "unstable-fuzz")]
    pub(crate) fn detached() -> Self {
        Self {
            service: BlobService::new(super::BlobOptions::default()),
        }
    }

    /// Creates a container; one that is there already is left as it is.
    ///
    /// # Errors
    ///
    /// The service's error code, when the name is not allowed or there are too many.
    pub(crate) fn create_container(&self, name: &str) -> Result<(), &'static str> {
        let now = self.service.options().clock.now();
        let created = self
            .service
            .store()
            .create_container(name, Metadata::default(), now);
        match created {
            Err(error) if error.code != ErrorCode::ContainerAlreadyExists => {
                Err(error.code.as_str())
            }
            _ => Ok(()),
        }
    }

    /// Replaces the key.
    pub(crate) fn set_key(&self, key: &str) -> Result<(), InvalidKey> {
        self.service.set_key(AccountKey::from_base64(key)?);
        Ok(())
    }

    /// Deletes a container with its blobs.
    ///
    /// # Errors
    ///
    /// The service's error code.
    pub(crate) fn delete_container(&self, name: &str) -> Result<(), &'static str> {
        let deleted = self.service.store().delete_container(name);
        deleted.map_err(|error| error.code.as_str())
    }

    /// Puts an empty blob as another program may have written it; metadata names keep their case.
    ///
    /// # Errors
    ///
    /// The service's error code, when it would refuse the blob.
    pub(crate) fn put_blob(
        &self,
        container: &str,
        name: &str,
        pairs: &[(&str, &str)],
    ) -> Result<(), &'static str> {
        let put = || {
            let mut metadata = Metadata::default();
            for (name, value) in pairs {
                metadata.insert(name, value)?;
            }
            let upload = (Bytes::new(), ContentHeaders::default(), metadata);
            let now = self.service.options().clock.now();
            let mut store = self.service.store();
            store.put_blob(container, name, upload, &Conditions::default(), now)
        };
        put()
            .map(drop)
            .map_err(|error: StorageError| error.code.as_str())
    }

    /// Deletes a blob.
    ///
    /// # Errors
    ///
    /// The service's error code.
    pub(crate) fn delete_blob(&self, container: &str, name: &str) -> Result<(), &'static str> {
        let mut store = self.service.store();
        let deleted = store.delete_blob(container, name, &Conditions::default());
        deleted.map_err(|error| error.code.as_str())
    }

    /// The metadata of a blob, if there is one.
    pub(crate) fn blob_metadata(
        &self,
        container: &str,
        name: &str,
    ) -> Option<Vec<(String, String)>> {
        let store = self.service.store();
        let blob = store.blob(container, name, &Conditions::default()).ok()?;
        let pairs = blob.metadata.iter();
        Some(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// How many requests of a kind were let through, those included that faults then stopped.
    pub(crate) fn counts(&self) -> Vec<(Operation, u64)> {
        let counts = self.service.counts();
        counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}
