//! The stored containers and blobs, and what each operation does to them. No clock, and no IO but
//! the journal, which hears of every change before it is made.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Deviations,
    clock::whole_seconds,
    conditions::{Conditions, ETag, Version},
    errors::{ErrorCode, StorageError},
    journal::{Change, Journal},
    metadata::Metadata,
    names,
};
use crate::storage::DataError;

/// What a stored blob costs beyond its own bytes; a rough figure that bounds memory.
const BLOB_OVERHEAD: u64 = 512;

/// How much the store takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of names, metadata and content, with a fixed overhead for each blob.
    pub(crate) total_bytes: u64,
    /// Containers.
    pub(crate) containers: usize,
    /// Blobs in all containers.
    pub(crate) blobs: usize,
}

/// The content headers a blob keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentHeaders {
    pub(crate) content_type: Option<String>,
    pub(crate) encoding: Option<String>,
    pub(crate) language: Option<String>,
    pub(crate) md5: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) disposition: Option<String>,
}

/// A block blob.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) content: Bytes,
    pub(crate) headers: ContentHeaders,
    pub(crate) metadata: Metadata,
    pub(crate) etag: ETag,
    pub(crate) created: SystemTime,
    pub(crate) last_modified: SystemTime,
}

impl Blob {
    /// What conditions are held against.
    pub(crate) fn version(&self) -> Version {
        Version {
            etag: self.etag,
            last_modified: self.last_modified,
        }
    }

    fn cost(&self, name: &str) -> u64 {
        let bytes = name.len() + self.metadata.bytes() + self.content.len();
        bytes as u64 + BLOB_OVERHEAD
    }
}

/// A container and its blobs, in the order of their names.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) blobs: BTreeMap<String, Blob>,
    pub(crate) metadata: Metadata,
    pub(crate) etag: ETag,
    pub(crate) last_modified: SystemTime,
}

/// The stored state of one account.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    containers: BTreeMap<String, Container>,
    limits: Limits,
    deviations: Deviations,
    last_etag: u64,
    bytes: u64,
    blobs: usize,
    journal: Option<Arc<Journal>>,
}

impl Store {
    /// An empty account.
    pub(crate) fn new(limits: Limits, deviations: Deviations) -> Self {
        Self {
            containers: BTreeMap::new(),
            limits,
            deviations,
            last_etag: 0,
            bytes: 0,
            blobs: 0,
            journal: None,
        }
    }

    /// An account that a file keeps, with what is there already.
    pub(crate) fn open(
        path: &Path,
        is_synced: bool,
        limits: Limits,
        deviations: Deviations,
    ) -> Result<Self, DataError> {
        let (journal, (containers, last_etag)) = Journal::open(path, is_synced)?;
        let blobs = || containers.values().flat_map(|container| &container.blobs);
        Ok(Self {
            bytes: blobs().map(|(name, blob)| blob.cost(name)).sum(),
            blobs: blobs().count(),
            containers,
            limits,
            deviations,
            last_etag,
            journal: Some(Arc::new(journal)),
        })
    }

    /// Creates a container.
    pub(crate) fn create_container(
        &mut self,
        name: &str,
        metadata: Metadata,
        now: SystemTime,
    ) -> Result<Version, StorageError> {
        names::check_container(name)?;
        if self.containers.contains_key(name) {
            return Err(ErrorCode::ContainerAlreadyExists.into());
        }
        if self.containers.len() >= self.limits.containers {
            return Err(ErrorCode::InsufficientStorage.into());
        }
        let version = self.next_version(now);
        let container = Container {
            blobs: BTreeMap::new(),
            metadata,
            etag: version.etag,
            last_modified: version.last_modified,
        };
        self.record(&Change::Container(name, &container))?;
        self.containers.insert(name.to_owned(), container);
        Ok(version)
    }

    /// Deletes a container with all it holds; the name is free again at once.
    pub(crate) fn delete_container(&mut self, name: &str) -> Result<(), StorageError> {
        if !self.containers.contains_key(name) {
            return Err(ErrorCode::ContainerNotFound.into());
        }
        self.record(&Change::ContainerGone(name))?;
        let Some(container) = self.containers.remove(name) else {
            return Err(ErrorCode::ContainerNotFound.into());
        };
        self.blobs -= container.blobs.len();
        self.bytes -= container.blobs.iter().map(|(n, b)| b.cost(n)).sum::<u64>();
        Ok(())
    }

    /// Looks a container up.
    pub(crate) fn container(&self, name: &str) -> Result<&Container, StorageError> {
        names::check_container(name)?;
        self.containers
            .get(name)
            .ok_or_else(|| ErrorCode::ContainerNotFound.into())
    }

    /// All containers by name.
    pub(crate) fn containers(&self) -> &BTreeMap<String, Container> {
        &self.containers
    }

    /// Puts a whole block blob, in place of an older one if there is one.
    pub(crate) fn put_blob(
        &mut self,
        container: &str,
        name: &str,
        (content, headers, metadata): (Bytes, ContentHeaders, Metadata),
        conditions: &Conditions,
        now: SystemTime,
    ) -> Result<Version, StorageError> {
        names::check_blob(name)?;
        let existing = self.container(container)?.blobs.get(name);
        // PROTOCOL: create-only on an existing blob is a conflict, not a failed precondition.
        if existing.is_some() && conditions.is_create_only() {
            return Err(ErrorCode::BlobAlreadyExists.into());
        }
        conditions.check_write(existing.map(Blob::version), self.deviations)?;
        let freed = existing.map(|blob| blob.cost(name));
        let version = self.next_version(now);
        let blob = Blob {
            content,
            headers,
            metadata,
            etag: version.etag,
            created: version.last_modified,
            last_modified: version.last_modified,
        };
        let bytes = self.bytes - freed.unwrap_or(0) + blob.cost(name);
        let blobs = self.blobs + usize::from(freed.is_none());
        self.admit(bytes, blobs)?;
        self.record(&Change::Blob(container, name, &blob))?;
        self.blobs_of(container)?.insert(name.to_owned(), blob);
        (self.bytes, self.blobs) = (bytes, blobs);
        Ok(version)
    }

    /// Replaces the whole metadata set of a blob.
    pub(crate) fn set_metadata(
        &mut self,
        container: &str,
        name: &str,
        mut metadata: Metadata,
        conditions: &Conditions,
        now: SystemTime,
    ) -> Result<Version, StorageError> {
        names::check_blob(name)?;
        let Some(blob) = self.container(container)?.blobs.get(name) else {
            // INTEROP: the service says that the blob is missing, Azurite that the condition
            // failed; .NET re-creates a deleted ownership blob on the first answer only.
            if self.deviations.set_metadata_on_missing_checks_conditions {
                conditions.check_write(None, self.deviations)?;
            }
            return Err(ErrorCode::BlobNotFound.into());
        };
        conditions.check_write(Some(blob.version()), self.deviations)?;
        metadata.keep_spelling_of(&blob.metadata);
        let bytes = self.bytes - blob.metadata.bytes() as u64 + metadata.bytes() as u64;
        self.admit(bytes, self.blobs)?;
        // Content is shared, so this copies little.
        let mut blob = blob.clone();
        let version = self.next_version(now);
        blob.metadata = metadata;
        blob.etag = version.etag;
        blob.last_modified = version.last_modified;
        self.record(&Change::Blob(container, name, &blob))?;
        self.blobs_of(container)?.insert(name.to_owned(), blob);
        self.bytes = bytes;
        Ok(version)
    }

    /// Reads a blob.
    pub(crate) fn blob(
        &self,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<&Blob, StorageError> {
        names::check_blob(name)?;
        let blob = self
            .container(container)?
            .blobs
            .get(name)
            .ok_or_else(|| StorageError::from(ErrorCode::BlobNotFound))?;
        conditions.check_read(blob.version())?;
        Ok(blob)
    }

    /// Whether there is such a blob.
    pub(crate) fn has_blob(&self, container: &str, name: &str) -> bool {
        let container = self.containers.get(container);
        container.is_some_and(|container| container.blobs.contains_key(name))
    }

    /// Deletes a blob.
    pub(crate) fn delete_blob(
        &mut self,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<(), StorageError> {
        names::check_blob(name)?;
        let Some(blob) = self.container(container)?.blobs.get(name) else {
            return Err(ErrorCode::BlobNotFound.into());
        };
        conditions.check_write(Some(blob.version()), self.deviations)?;
        let cost = blob.cost(name);
        self.record(&Change::BlobGone(container, name))?;
        self.blobs_of(container)?.remove(name);
        self.bytes -= cost;
        self.blobs -= 1;
        Ok(())
    }

    /// Puts a change on disk before it is made.
    fn record(&self, change: &Change<'_>) -> Result<(), StorageError> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        journal.tidy(&self.containers, self.last_etag);
        journal.write(change).map_err(|error| {
            tracing::error!(%error, "a change of blobs was not stored");
            ErrorCode::InternalError.into()
        })
    }

    fn blobs_of(&mut self, container: &str) -> Result<&mut BTreeMap<String, Blob>, StorageError> {
        names::check_container(container)?;
        self.containers
            .get_mut(container)
            .map(|container| &mut container.blobs)
            .ok_or_else(|| ErrorCode::ContainerNotFound.into())
    }

    fn admit(&self, bytes: u64, blobs: usize) -> Result<(), StorageError> {
        // What does not grow is always let through, so that a full store can still be renewed.
        let grows = bytes > self.bytes || blobs > self.blobs;
        if grows && (bytes > self.limits.total_bytes || blobs > self.limits.blobs) {
            return Err(ErrorCode::InsufficientStorage.into());
        }
        Ok(())
    }

    /// INVARIANT: no two writes share a tag, also when the clock stands still or goes back.
    fn next_version(&mut self, now: SystemTime) -> Version {
        // Tags look like the service's, which are times in 100 ns since the year 1.
        const TICKS_TO_UNIX_EPOCH: u64 = 621_355_968_000_000_000;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ticks = u64::try_from(since.as_nanos() / 100).unwrap_or(u64::MAX / 2);
        self.last_etag = (self.last_etag + 1).max(ticks.saturating_add(TICKS_TO_UNIX_EPOCH));
        Version {
            etag: ETag(self.last_etag),
            last_modified: whole_seconds(now),
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "state_properties.rs"]
mod properties;
