//! From listed blobs to records. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::container::Listing;
use super::metadata;
use super::names;
use super::requests::Record;
use crate::checkpoint::{OwnershipListing, StoredCheckpoint};
use crate::model::{Ownership, PartitionId};

/// The ownership records of a listing. What is no record of a partition is left out; a record that names
/// nobody is unowned, whatever else is wrong with it.
pub(super) fn ownerships(prefix: &str, listing: Listing) -> OwnershipListing {
    let as_of = listing.as_of;
    let ownerships = by_partition(prefix, listing)
        .into_iter()
        .map(|(partition_id, record)| Ownership {
            partition_id,
            owner_id: metadata::read_owner(&record.metadata),
            etag: record.etag,
            last_modified: record.last_modified,
        })
        .collect();
    OwnershipListing { as_of, ownerships }
}

/// The checkpoints of a listing that hold a position.
pub(super) fn checkpoints(prefix: &str, listing: Listing) -> Vec<StoredCheckpoint> {
    by_partition(prefix, listing)
        .into_iter()
        .filter_map(|(partition_id, record)| {
            match metadata::read_checkpoint(&partition_id, &record.metadata) {
                Ok(checkpoint) => Some(StoredCheckpoint {
                    checkpoint,
                    etag: Some(record.etag),
                }),
                Err(error) => {
                    tracing::warn!(blob = record.name, %error, "leaving out a checkpoint");
                    None
                }
            }
        })
        .collect()
}

/// The partitions that have a record in a listing, whatever it holds.
pub(super) fn partitions(prefix: &str, listing: &Listing) -> BTreeSet<PartitionId> {
    let names = listing.records.iter().map(|record| record.name.as_str());
    names
        .filter_map(|name| names::partition_of(prefix, name))
        .collect()
}

/// The records by partition. Pages are not one snapshot, so a blob that changed in between can be listed
/// twice: the younger one is kept.
fn by_partition(prefix: &str, listing: Listing) -> BTreeMap<PartitionId, Record> {
    let mut records = BTreeMap::new();
    for record in listing.records {
        let Some(partition_id) = names::partition_of(prefix, &record.name) else {
            continue;
        };
        if metadata::is_directory(&record.metadata) {
            continue;
        }
        match records.entry(partition_id) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(record);
            }
            std::collections::btree_map::Entry::Occupied(mut earlier) => {
                if record.last_modified >= earlier.get().last_modified {
                    earlier.insert(record);
                }
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const PREFIX: &str = "ns/hub/g/ownership/";

    fn record(name: &str, metadata: &[(&str, &str)], second: u64) -> Record {
        Record {
            name: name.to_owned(),
            metadata: metadata
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            etag: format!("e{second}").into(),
            last_modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second)),
        }
    }

    fn listing(records: Vec<Record>) -> Listing {
        Listing {
            as_of: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
            records,
        }
    }

    #[test]
    fn an_odd_record_spoils_no_other() {
        let listed = ownerships(
            PREFIX,
            listing(vec![
                record("ns/hub/g/ownership/0", &[("ownerid", "a")], 1),
                record("ns/hub/g/ownership/1", &[], 2),
                record("ns/hub/g/ownership/2", &[("ownerid", " ")], 3),
                record("ns/hub/g/ownership/", &[("ownerid", "a")], 4),
                record("ns/hub/g/ownership/3/x", &[("ownerid", "a")], 5),
                record("ns/hub/g/ownership/dir", &[("hdi_isfolder", "true")], 6),
                record("ns/hub/g/ownership/4", &[("OwnerId", "b")], 7),
            ]),
        );
        let owners: Vec<_> = listed
            .ownerships
            .iter()
            .map(|o| {
                (
                    o.partition_id.as_str(),
                    o.owner_id.as_ref().map(|id| id.as_str()),
                )
            })
            .collect();
        assert_eq!(
            owners,
            [("0", Some("a")), ("1", None), ("2", None), ("4", Some("b"))]
        );
    }

    #[test]
    fn a_record_listed_twice_counts_once_and_as_its_younger_self() {
        for order in [[1, 2], [2, 1]] {
            let records = order.map(|n| record("ns/hub/g/ownership/0", &[("ownerid", "a")], n));
            let listed = ownerships(PREFIX, listing(records.into()));
            assert_eq!(listed.ownerships.len(), 1);
            assert_eq!(listed.ownerships[0].etag, "e2".into());
        }
    }

    #[test]
    fn a_checkpoint_without_position_is_left_out() {
        let prefix = "ns/hub/g/checkpoint/";
        let found = checkpoints(
            prefix,
            listing(vec![
                record(
                    "ns/hub/g/checkpoint/0",
                    &[("offset", "1"), ("sequencenumber", "1")],
                    1,
                ),
                record("ns/hub/g/checkpoint/1", &[("offset", "no offset")], 1),
                record("ns/hub/g/checkpoint/2", &[("sequencenumber", "5")], 1),
            ]),
        );
        let partitions: Vec<_> = found
            .iter()
            .map(|stored| stored.checkpoint.partition_id.as_str())
            .collect();
        assert_eq!(partitions, ["0", "2"]);
    }
}
