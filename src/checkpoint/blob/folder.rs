//! Blobs with content, in the place of a consumer group: dead letters.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::container::Container;
use super::names::BlobNames;
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError, NameCase, check_container_name};
use crate::credential::{StorageConnectionString, StorageCredential, parse_endpoint};
use crate::error::StoreError;
use crate::model::{GroupScope, PartitionId};

/// A container that blobs with content are put into. Clones share the connection pool.
#[derive(Clone)]
pub(crate) struct BlobFolder {
    container: Arc<Container>,
    /// For `Debug` only: without query, hence without secret.
    url: Arc<str>,
    name_case: NameCase,
}

impl BlobFolder {
    pub(crate) fn parse(
        connection_string: &str,
        container_name: &str,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let parsed = StorageConnectionString::parse(connection_string)?;
        let credential = parsed.credential().clone();
        Self::new(parsed.blob_endpoint(), container_name, credential, options)
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "as everywhere, options are handed over"
    )]
    pub(crate) fn new(
        account_url: &str,
        container_name: &str,
        credential: StorageCredential,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        options.check()?;
        let url = parse_endpoint(account_url)
            .map_err(|reason| BlobStoreConfigError::InvalidAccountUrl { reason })?;
        check_container_name(container_name)?;
        let container = Container::new(&url, container_name, credential, &options)?;
        Ok(Self {
            container: Arc::new(container),
            url: format!("{}/{container_name}", url.as_str().trim_end_matches('/')).into(),
            name_case: options.name_case,
        })
    }

    /// Puts a dead letter where its event was, over one that is there.
    pub(crate) async fn put_dead_letter(
        &self,
        scope: &GroupScope,
        partition_id: &PartitionId,
        sequence_number: i64,
        content: Bytes,
    ) -> Result<(), StoreError> {
        let names = BlobNames::new(scope, self.name_case)?;
        let name = names.dead_letter(partition_id, sequence_number)?;
        let deadline = self.container.deadline();
        let ended = self.container.put(deadline, &name, &content).await;
        match ended.result {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.into_error(format_args!("write {name}"))),
        }
    }
}

impl fmt::Debug for BlobFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobFolder")
            .field("url", &self.url)
            .field("name_case", &self.name_case)
            .finish_non_exhaustive()
    }
}
