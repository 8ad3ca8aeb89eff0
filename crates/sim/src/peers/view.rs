//! What one listing tells a foreign processor, by its own clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::history::Partition;
use crate::store::{Header, Listing, OwnershipBlob};

/// One listing in the eyes of one processor.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) partitions: u32,
    pub(crate) records: BTreeMap<Partition, OwnershipBlob>,
    /// Milliseconds of the processor's own clock.
    pub(crate) now: i64,
    pub(crate) expiry: i64,
}

impl View {
    pub(crate) fn new(partitions: u32, listing: Listing, now: i64, expiry: i64) -> Self {
        Self {
            partitions,
            records: listing.records.into_iter().collect(),
            now,
            expiry,
        }
    }

    /// Partitions that nobody holds.
    pub(crate) fn free(&self) -> Vec<Partition> {
        (0..self.partitions)
            .filter(|partition| self.active_owner(*partition).is_none())
            .collect()
    }

    /// Partitions of each live owner, `me` included even if it has none.
    pub(crate) fn by_owner(&self, me: &str) -> BTreeMap<Arc<str>, Vec<Partition>> {
        let mut owners: BTreeMap<Arc<str>, Vec<Partition>> = BTreeMap::new();
        owners.insert(me.into(), Vec::new());
        for partition in 0..self.partitions {
            if let Some(owner) = self.active_owner(partition) {
                owners.entry(owner).or_default().push(partition);
            }
        }
        owners
    }

    /// Partitions whose record names `me`, expired or not.
    pub(crate) fn named(&self, me: &str) -> Vec<Partition> {
        let records = self.records.iter();
        records
            .filter(|(_, blob)| blob.owner.as_deref() == Some(me))
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// The condition for writing a record as seen here.
    pub(crate) fn header(&self, partition: Partition) -> Header {
        self.records
            .get(&partition)
            .map_or(Header::IfAbsent, |blob| Header::IfMatch(blob.version))
    }

    pub(crate) fn active_owner(&self, partition: Partition) -> Option<Arc<str>> {
        let blob = self.records.get(&partition)?;
        self.is_young(blob).then(|| blob.owner.clone()).flatten()
    }

    pub(crate) fn is_young(&self, blob: &OwnershipBlob) -> bool {
        let modified = i64::try_from(blob.modified).unwrap_or(i64::MAX) * 1000;
        self.now - modified < self.expiry
    }
}

/// `N div M` and `N mod M`.
pub(crate) fn shares(partitions: u32, owners: usize) -> (usize, usize) {
    let partitions = partitions as usize;
    (partitions / owners, partitions % owners)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A view in which `owners` hold so many partitions, and the rest of `partitions` has no record.
    pub(crate) fn view(partitions: u32, owners: &[(&str, u32)]) -> View {
        let mut records = BTreeMap::new();
        for (owner, held) in owners {
            for _ in 0..*held {
                let partition = u32::try_from(records.len()).unwrap();
                let blob = OwnershipBlob {
                    owner: Some((*owner).into()),
                    version: 1,
                    modified: 100,
                };
                records.insert(partition, blob);
            }
        }
        View {
            partitions,
            records,
            now: 101_000,
            expiry: 60_000,
        }
    }
}
