//! The records and the conditions on writing them: what blob storage does, without time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::history::Partition;

/// Version of a record; never used twice.
pub(crate) type Version = u64;

/// An ownership record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnershipBlob {
    /// `None`: the id is empty, the partition was given back.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) version: Version,
    /// Whole seconds of the store's clock.
    pub(crate) modified: u64,
}

/// A checkpoint record. Its offset is the sequence number times a hundred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointBlob {
    pub(crate) seq: i64,
    pub(crate) version: Version,
}

/// The condition header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    None,
    IfAbsent,
    IfMatch(Version),
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 409: there is a record already.
    Exists,
    /// 412: another version.
    Mismatch,
    /// 404: no record.
    NotFound,
}

/// Which operation writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    PutBlob,
    SetMetadata,
}

/// All records of one group.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) ownerships: BTreeMap<Partition, OwnershipBlob>,
    pub(crate) checkpoints: BTreeMap<Partition, CheckpointBlob>,
    last_version: Version,
}

impl Blobs {
    pub(crate) fn write_owner(
        &mut self,
        operation: Operation,
        partition: Partition,
        owner: Option<Arc<str>>,
        header: Header,
        now: u64,
    ) -> Result<OwnershipBlob, Refusal> {
        let stored = self.ownerships.get(&partition).map(|blob| blob.version);
        check(operation, stored, header)?;
        self.last_version += 1;
        let blob = OwnershipBlob {
            owner,
            version: self.last_version,
            modified: now,
        };
        self.ownerships.insert(partition, blob.clone());
        Ok(blob)
    }

    pub(crate) fn write_checkpoint(
        &mut self,
        operation: Operation,
        partition: Partition,
        seq: i64,
        header: Header,
    ) -> Result<Version, Refusal> {
        let stored = self.checkpoints.get(&partition).map(|blob| blob.version);
        check(operation, stored, header)?;
        self.last_version += 1;
        let version = self.last_version;
        self.checkpoints
            .insert(partition, CheckpointBlob { seq, version });
        Ok(version)
    }
}

fn check(operation: Operation, stored: Option<Version>, header: Header) -> Result<(), Refusal> {
    match (operation, stored, header) {
        (Operation::SetMetadata, None, _) => Err(Refusal::NotFound),
        // Python's create asks for this on an existing record: taken as refused.
        (Operation::SetMetadata, Some(_), Header::IfAbsent) => Err(Refusal::Mismatch),
        (Operation::PutBlob, Some(_), Header::IfAbsent) => Err(Refusal::Exists),
        (_, Some(stored), Header::IfMatch(version)) if stored != version => Err(Refusal::Mismatch),
        (Operation::PutBlob, None, Header::IfMatch(_)) => Err(Refusal::Mismatch),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_answer_as_blob_storage_does() {
        use Operation::{PutBlob, SetMetadata};
        let mut blobs = Blobs::default();
        let mut write = |operation, header| {
            blobs
                .write_owner(operation, 0, Some("a".into()), header, 0)
                .map(|blob| blob.version)
        };
        assert_eq!(write(SetMetadata, Header::None), Err(Refusal::NotFound));
        assert_eq!(
            write(SetMetadata, Header::IfMatch(1)),
            Err(Refusal::NotFound)
        );
        assert_eq!(write(PutBlob, Header::IfAbsent), Ok(1));
        assert_eq!(write(PutBlob, Header::IfAbsent), Err(Refusal::Exists));
        assert_eq!(write(SetMetadata, Header::IfMatch(1)), Ok(2));
        assert_eq!(
            write(SetMetadata, Header::IfMatch(1)),
            Err(Refusal::Mismatch)
        );
        assert_eq!(write(PutBlob, Header::None), Ok(3));
    }
}
