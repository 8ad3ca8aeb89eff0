//! How a write is sent and what its end means.

use super::container::{Container, Deadline, Ended};
use super::failure::{Class, Failure};
use super::metadata::{self, Metadata};
use crate::checkpoint::{WriteCondition, WriteOutcome, Written};
use crate::error::StoreError;
use crate::model::ETag;

/// One record to be written.
pub(super) struct Write<'a> {
    pub(super) container: &'a Container,
    pub(super) deadline: Deadline,
    /// Name of the blob.
    pub(super) name: &'a str,
    pub(super) metadata: &'a Metadata,
}

impl Write<'_> {
    /// Writes the record on a condition. `recreates` says whether a record that vanished is created anew.
    pub(super) async fn on(
        self,
        condition: &WriteCondition,
        recreates: bool,
    ) -> Result<WriteOutcome, StoreError> {
        match condition {
            WriteCondition::Absent => {
                let ended = self.create(false).await;
                self.settle(ended, None).await
            }
            WriteCondition::Matches(etag) => {
                let ended = self.set_metadata(Some(etag)).await;
                if !is_gone(&ended) {
                    return self.settle(ended, Some(etag)).await;
                }
                if !recreates {
                    return Ok(WriteOutcome::Lost);
                }
                let ended = self.create(ended.is_ambiguous).await;
                self.settle(ended, None).await
            }
            WriteCondition::Unconditional => self.overwrite().await,
        }
    }

    /// INTEROP: metadata first, as all SDKs do: where soft delete or versioning is on, every `Put Blob` over
    /// an existing blob leaves a copy behind and slows listings down.
    async fn overwrite(self) -> Result<WriteOutcome, StoreError> {
        let ended = self.set_metadata(None).await;
        if !is_gone(&ended) {
            return self.settle(ended, None).await;
        }
        let ended = self.create(ended.is_ambiguous).await;
        match &ended.result {
            // Somebody created it in between.
            Err(failure) if failure.class == Class::Exists => {
                let ended = self.set_metadata(None).await;
                self.settle(ended, None).await
            }
            _ => self.settle(ended, None).await,
        }
    }

    async fn create(&self, was_ambiguous: bool) -> Ended<Written> {
        let mut ended = self
            .container
            .create(self.deadline, self.name, self.metadata)
            .await;
        ended.is_ambiguous |= was_ambiguous;
        ended
    }

    async fn set_metadata(&self, version: Option<&ETag>) -> Ended<Written> {
        self.container
            .set_metadata(self.deadline, self.name, self.metadata, version)
            .await
    }

    /// Tells a lost race from a lost answer.
    async fn settle(
        self,
        ended: Ended<Written>,
        replaced: Option<&ETag>,
    ) -> Result<WriteOutcome, StoreError> {
        let failure = match ended.result {
            Ok(written) => return Ok(WriteOutcome::Written(written)),
            Err(failure) => failure,
        };
        match failure.class {
            Class::Exists | Class::Stale if ended.is_ambiguous => self.read_back(replaced).await,
            Class::Exists | Class::Stale => Ok(WriteOutcome::Lost),
            Class::Ambiguous => Ok(WriteOutcome::Unknown(
                failure.into_error(format_args!("write {}", self.name)),
            )),
            // Refused now, but an earlier try may have gone through.
            _ if ended.is_ambiguous => Ok(WriteOutcome::Unknown(
                failure.into_error(format_args!("write {}", self.name)),
            )),
            _ => Err(failure.into_error(format_args!("write {}", self.name))),
        }
    }

    /// After a try whose answer was lost, a retry that finds the record changed may have met its own first
    /// try. If the record holds what was to be written, it is the outcome that was asked for, whoever wrote
    /// it; and no late try can change it any more, since the version it names is gone.
    async fn read_back(self, replaced: Option<&ETag>) -> Result<WriteOutcome, StoreError> {
        match self.container.properties(self.deadline, self.name).await {
            Ok(Some(record))
                if metadata::holds(&record.metadata, self.metadata)
                    && replaced != Some(&record.etag) =>
            {
                Ok(WriteOutcome::Written(Written {
                    etag: record.etag,
                    last_modified: record.last_modified,
                }))
            }
            Ok(_) => Ok(WriteOutcome::Lost),
            Err(failure) => Ok(WriteOutcome::Unknown(
                failure.into_error(format_args!("write {}", self.name)),
            )),
        }
    }
}

fn is_gone(ended: &Ended<Written>) -> bool {
    matches!(
        &ended.result,
        Err(Failure {
            class: Class::BlobNotFound,
            ..
        })
    )
}
