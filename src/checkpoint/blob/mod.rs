//! Ownership and checkpoint records in a container of blob storage, as all Azure SDKs keep them.

mod authorizer;
#[cfg(feature = "unstable-bench")]
pub(super) mod bench;
mod container;
mod failure;
mod folder;
#[cfg(feature = "unstable-fuzz")]
pub(super) mod fuzz;
mod kept;
#[cfg(feature = "legacy-storage")]
mod legacy;
mod legacy_checkpoints;
mod metadata;
mod names;
mod options;
mod records;
mod requests;
mod route;
mod shared_key;
mod spellings;
mod supported;
mod writes;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use self::container::{Container, Deadline, Listing};
pub(crate) use self::folder::BlobFolder;
use self::legacy_checkpoints::LegacyReader;
pub use self::legacy_checkpoints::{LegacyCheckpoints, LegacyLayout};
use self::names::BlobNames;
pub use self::options::{
    BlobBackend, BlobCheckpointStoreOptions, BlobStoreConfigError, NameCase, SplitGroup,
};
pub use self::spellings::{CheckpointMigration, OtherSpelling};
use self::writes::Write;
use super::{
    CheckpointStore, OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome, validate,
};
use crate::credential::{
    Secret, StorageConnectionString, StorageCredential, TokenCredential, parse_endpoint,
};
use crate::error::{LastError, StoreError};
use crate::model::{Checkpoint, GroupScope, OwnerId, PartitionId};

/// Keeps ownership and checkpoint records in one container of a storage account.
///
/// The records are those of the other Azure SDKs (`azure-eventhub-checkpointstoreblob` and its siblings), so
/// that processors of all of them can share a consumer group. The container must exist. Clones share the
/// connection pool.
///
/// Every request has a deadline, and every operation has one over all of its requests
/// ([`BlobCheckpointStoreOptions`]). A write whose answer was lost is tried once more and, if that finds the
/// record changed, read back: it counts as written if the record holds what was to be written under a new
/// version. Where even this stays open, the outcome is [`WriteOutcome::Unknown`].
///
/// A conditional write that finds its record vanished creates it anew, provided nobody else did; giving back
/// ownership of a vanished record is [`WriteOutcome::Lost`].
///
/// # Examples
///
/// ```
/// use eventhubs_processor::checkpoint::BlobCheckpointStore;
///
/// let store = BlobCheckpointStore::from_connection_string("UseDevelopmentStorage=true", "checkpoints")?;
/// # Ok::<(), eventhubs_processor::checkpoint::BlobStoreConfigError>(())
/// ```
#[derive(Clone)]
pub struct BlobCheckpointStore {
    shared: Arc<Shared>,
}

struct Shared {
    container: Arc<Container>,
    /// For `Debug` only: without query, hence without secret.
    url: String,
    options: BlobCheckpointStoreOptions,
    legacy: Option<LegacyReader>,
    /// Groups that were already looked for under other spellings.
    spellings_checked: Mutex<HashSet<GroupScope>>,
}

impl BlobCheckpointStore {
    /// A store in the container of the account that the connection string names, with default options.
    ///
    /// # Errors
    ///
    /// [`BlobStoreConfigError`] if the connection string or the container name cannot be used. The account is
    /// not contacted.
    pub fn from_connection_string(
        connection_string: &str,
        container_name: &str,
    ) -> Result<Self, BlobStoreConfigError> {
        let options = BlobCheckpointStoreOptions::default();
        Self::from_connection_string_with_options(connection_string, container_name, options)
    }

    /// As [`from_connection_string`](Self::from_connection_string), with options.
    ///
    /// # Errors
    ///
    /// As [`from_connection_string`](Self::from_connection_string), and for options that cannot be.
    pub fn from_connection_string_with_options(
        connection_string: &str,
        container_name: &str,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let parsed = StorageConnectionString::parse(connection_string)?;
        Self::new(
            parsed.blob_endpoint(),
            container_name,
            parsed.credential().clone(),
            options,
        )
    }

    /// A store in a container of the account at `account_url`, such as
    /// `https://contoso.blob.core.windows.net`.
    ///
    /// # Errors
    ///
    /// [`BlobStoreConfigError`] if a part cannot be used; a token credential needs an https URL. The account is
    /// not contacted.
    pub fn new(
        account_url: &str,
        container_name: &str,
        credential: StorageCredential,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        options.check()?;
        let url = parse_endpoint(account_url)
            .map_err(|reason| BlobStoreConfigError::InvalidAccountUrl { reason })?;
        let open = |name: &str, credential| {
            check_container_name(name)?;
            Container::new(&url, name, credential, &options).map(Arc::new)
        };
        let container = open(container_name, credential.clone())?;
        let legacy = match &options.legacy_checkpoints {
            None => None,
            Some(legacy) => Some(LegacyReader {
                container: match &legacy.container_name {
                    None => Arc::clone(&container),
                    Some(name) => open(name, credential)?,
                },
                layout: legacy.layout.clone(),
            }),
        };
        let url = format!("{}/{container_name}", url.as_str().trim_end_matches('/'));
        Ok(Self::over(container, legacy, url, options))
    }

    /// A store over requests of any kind.
    fn over(
        container: Arc<Container>,
        legacy: Option<LegacyReader>,
        url: String,
        options: BlobCheckpointStoreOptions,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                container,
                url,
                options,
                legacy,
                spellings_checked: Mutex::default(),
            }),
        }
    }

    /// A store that signs its requests with a key of the account, with default options.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_account_key(
        account_url: &str,
        container_name: &str,
        account_name: impl Into<String>,
        account_key: impl Into<Secret>,
    ) -> Result<Self, BlobStoreConfigError> {
        let credential = StorageCredential::account_key(account_name, account_key);
        let options = BlobCheckpointStoreOptions::default();
        Self::new(account_url, container_name, credential, options)
    }

    /// A store that uses a shared access signature, with default options. The signature must allow to read,
    /// list, create and write blobs.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_shared_access_signature(
        account_url: &str,
        container_name: &str,
        signature: impl Into<Secret>,
    ) -> Result<Self, BlobStoreConfigError> {
        let credential = StorageCredential::shared_access_signature(signature);
        let options = BlobCheckpointStoreOptions::default();
        Self::new(account_url, container_name, credential, options)
    }

    /// A store that uses tokens of Microsoft Entra ID, with default options. The identity needs the role
    /// "Storage Blob Data Contributor" on the container.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_token_credential(
        account_url: &str,
        container_name: &str,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, BlobStoreConfigError> {
        let credential = StorageCredential::token(credential);
        let options = BlobCheckpointStoreOptions::default();
        Self::new(account_url, container_name, credential, options)
    }

    async fn list(&self, deadline: Deadline, prefix: &str) -> Result<Listing, StoreError> {
        let listing = self.shared.container.list(deadline, prefix).await;
        let url = &self.shared.url;
        listing.map_err(|failure| failure.into_error(format_args!("list {prefix} in {url}")))
    }

    fn names(&self, scope: &GroupScope) -> Result<BlobNames, StoreError> {
        BlobNames::new(scope, self.shared.options.name_case)
    }

    fn deadline(&self) -> Deadline {
        self.shared.container.deadline()
    }
}

impl fmt::Debug for BlobCheckpointStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobCheckpointStore")
            .field("url", &self.shared.url)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CheckpointStore for BlobCheckpointStore {
    async fn list_ownership(&self, scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        let prefix = self.names(scope)?.ownership_prefix();
        let deadline = self.deadline();
        let listing = self.list(deadline, &prefix).await?;
        self.check_spellings(deadline, scope).await?;
        Ok(records::ownerships(&prefix, listing))
    }

    async fn claim_ownership(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        if let Some(owner_id) = owner_id {
            validate::owner_id(owner_id)?;
        }
        match condition {
            WriteCondition::Absent => {}
            WriteCondition::Matches(etag) => validate::etag(etag)?,
            WriteCondition::Unconditional => return Err(validate::unconditional_ownership()),
        }
        let name = self.names(scope)?.ownership(partition_id)?;
        let write = Write {
            container: &self.shared.container,
            deadline: self.deadline(),
            name: &name,
            metadata: &metadata::write_owner(owner_id),
        };
        write.on(condition, owner_id.is_some()).await
    }

    async fn list_checkpoints(
        &self,
        scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let prefix = self.names(scope)?.checkpoint_prefix();
        let deadline = self.deadline();
        let listing = self.list(deadline, &prefix).await?;
        let known = records::partitions(&prefix, &listing);
        let mut checkpoints = records::checkpoints(&prefix, listing);
        if let Some(legacy) = &self.shared.legacy {
            let is_known = |partition_id: &PartitionId| known.contains(partition_id);
            let old = legacy.list(deadline, scope, is_known).await?;
            checkpoints.extend(old.into_iter().map(unwritten));
        }
        Ok(checkpoints)
    }

    async fn checkpoint(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let name = self.names(scope)?.checkpoint(partition_id)?;
        let deadline = self.deadline();
        let record = self
            .shared
            .container
            .properties(deadline, &name)
            .await
            .map_err(|failure| failure.into_error(format_args!("read {name}")))?;
        let Some(record) = record else {
            let Some(legacy) = &self.shared.legacy else {
                return Ok(None);
            };
            let old = legacy.read(deadline, scope, partition_id).await?;
            return Ok(old.map(unwritten));
        };
        let checkpoint = metadata::read_checkpoint(partition_id, &record.metadata)?;
        Ok(Some(StoredCheckpoint {
            checkpoint,
            etag: Some(record.etag),
        }))
    }

    async fn update_checkpoint(
        &self,
        scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        if let WriteCondition::Matches(etag) = condition {
            validate::etag(etag)?;
        }
        let metadata = metadata::write_checkpoint(checkpoint)?;
        let name = self.names(scope)?.checkpoint(&checkpoint.partition_id)?;
        let write = Write {
            container: &self.shared.container,
            deadline: self.deadline(),
            name: &name,
            metadata: &metadata,
        };
        write.on(condition, true).await
    }

    fn credential_error(&self) -> Option<LastError> {
        self.shared.container.credential_error()
    }
}

/// A position that no record of ours holds yet.
fn unwritten(checkpoint: Checkpoint) -> StoredCheckpoint {
    StoredCheckpoint {
        checkpoint,
        etag: None,
    }
}

/// PROTOCOL: "Naming and referencing containers, blobs, and metadata".
fn check_container_name(name: &str) -> Result<(), BlobStoreConfigError> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let has_sound_hyphens = !name.starts_with('-') && !name.ends_with('-') && !name.contains("--");
    let is_name =
        (3..=63).contains(&name.len()) && name.bytes().all(is_allowed) && has_sound_hyphens;
    if is_name || name == "$root" {
        Ok(())
    } else {
        Err(BlobStoreConfigError::InvalidContainerName)
    }
}

#[cfg(test)]
mod tests;
