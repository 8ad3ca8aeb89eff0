//! The store as one of our processors sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use eventhubs_processor::checkpoint::{
    OwnershipListing, StoredCheckpoint, WriteCondition, WriteOutcome, Written,
};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{
    Checkpoint, CheckpointStore, ETag, GroupScope, OwnerId, Ownership, PartitionId, StoreError,
};

use super::{
    CheckpointBlob, Header, Listing, Operation, OwnershipBlob, Purpose, Refusal, SimStore, Trouble,
};
use crate::gate::Gate;
use crate::history::{Happening, Member, Partition};
use crate::marks::Mark;
use crate::view_check;
use crate::world::{World, partition_number, system_time};

/// One processor's way to the store.
#[derive(Clone, Debug)]
pub(crate) struct StoreClient {
    store: SimStore,
    world: World,
    member: Member,
    gate: Gate,
    /// Two intervals, in seconds.
    surely_alive: u64,
    view: Arc<Mutex<View>>,
    /// Ownership writes under way.
    claiming: Arc<AtomicUsize>,
}

/// What the processor knows of the records.
#[derive(Debug, Default)]
struct View {
    /// The last listing that it was given: what it plans from.
    listing: Option<Listing>,
    /// Its own records, at the versions that it was told of. A listing that shows another owner makes it forget.
    known: BTreeMap<Partition, u64>,
    /// Claimed from its own kind, which writes each once more when it has finished.
    awaited: BTreeSet<Partition>,
    /// Whether the listing shows records in its name that it has no reason to take for its own: the processor spares
    /// them, as a namesake's, and counts one member more.
    has_namesake: bool,
}

impl View {
    fn show(&mut self, listing: &Listing, is_own: impl Fn(&OwnershipBlob) -> bool) {
        self.has_namesake = false;
        for (partition, blob) in &listing.records {
            if !is_own(blob) {
                self.known.remove(partition);
                self.awaited.remove(partition);
            } else if self.known.get(partition) != Some(&blob.version) {
                if self.awaited.remove(partition) {
                    self.known.insert(*partition, blob.version);
                } else {
                    self.known.remove(partition);
                    self.has_namesake = true;
                }
            }
        }
        self.listing = Some(listing.clone());
    }
}

impl StoreClient {
    pub(crate) fn new(store: &SimStore, member: Member, gate: Gate, interval: Duration) -> Self {
        Self {
            world: store.world.clone(),
            store: store.clone(),
            member,
            gate,
            surely_alive: 2 * interval.as_secs(),
            view: Arc::default(),
            claiming: Arc::default(),
        }
    }

    /// Notes that the processor takes a checkpoint for stored.
    pub(crate) fn acknowledged(&self, checkpoint: &Checkpoint) {
        let partition = partition_number(checkpoint.partition_id.as_str());
        if let (Some(partition), Some(seq)) = (partition, checkpoint.sequence_number) {
            self.world.note(Happening::CheckpointAcked {
                member: self.member,
                partition,
                seq,
            });
        }
    }

    /// Whether an ownership write is under way.
    pub(crate) fn is_claiming(&self) -> bool {
        self.claiming.load(Ordering::Relaxed) > 0
    }

    /// Why an ownership write is sent. Notes the steps of a hand-over, which the names alone tell.
    fn purpose(
        &self,
        partition: Partition,
        owner_id: Option<&OwnerId>,
        claimer: Option<Member>,
    ) -> Purpose {
        let Some(owner_id) = owner_id else {
            return Purpose::GiveBack;
        };
        if claimer != Some(self.member) {
            self.world.reach(Mark::HeirTold);
            return Purpose::GiveBack;
        }
        if view_check::is_leaving(owner_id.as_str()) {
            self.world.reach(Mark::MarkedLeaving);
            return Purpose::Renew;
        }
        let view = self.view();
        let seen = view.listing.as_ref().and_then(|view| {
            let record = view.records.iter().find(|(id, _)| *id == partition);
            record.and_then(|(_, blob)| blob.owner.as_deref())
        });
        if seen.and_then(|id| self.world.member_of(id)) == Some(self.member) {
            return Purpose::Renew;
        }
        if seen.is_some_and(view_check::is_leaving) {
            self.world.reach(Mark::HeirClaimed);
        }
        Purpose::Claim
    }

    fn check_claim(&self, partition: Partition, condition: &WriteCondition) {
        let view = self.view();
        // Of its own records a processor knows better than an old listing.
        let current = view.listing.as_ref().filter(|listing| listing.is_current);
        // A write that names an older version than was listed takes nothing from anybody.
        let current = current.filter(|listing| match condition {
            WriteCondition::Matches(etag) => {
                let mut records = listing.records.iter();
                let record = records.find(|(id, _)| *id == partition);
                record.is_none_or(|(_, blob)| tag(blob.version) == *etag)
            }
            _ => true,
        });
        if let Some(why) = current.and_then(|listing| {
            view_check::claim(
                &self.world,
                listing,
                self.member,
                partition,
                condition,
                self.surely_alive,
                view.has_namesake,
            )
        }) {
            self.world.note(Happening::Misjudged {
                member: self.member,
                partition,
                why,
            });
        }
    }

    fn owner_of(&self, blob: &OwnershipBlob) -> Option<Member> {
        let owner = blob.owner.as_deref();
        owner.and_then(|id| self.world.member_of(id))
    }

    /// Notes that the processor was told of its own write, and what it then knows.
    fn told(&self, partition: Partition, version: u64) {
        let mut view = self.view();
        let listing = view.listing.as_ref();
        let seen = listing.and_then(|view| view.records.iter().find(|(id, _)| *id == partition));
        let before = seen.and_then(|(_, blob)| self.owner_of(blob));
        if before.is_some_and(|before| before != self.member) {
            view.awaited.insert(partition);
        }
        view.known.insert(partition, version);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CheckpointStore for StoreClient {
    async fn list_ownership(&self, _scope: &GroupScope) -> Result<OwnershipListing, StoreError> {
        self.gate.pass().await;
        let listing = self.store.list_ownership(self.member, Purpose::List).await;
        self.gate.pass().await;
        let listing = listing.map_err(|trouble| error(trouble, "list"))?;
        self.view()
            .show(&listing, |blob| self.owner_of(blob) == Some(self.member));
        let ownerships = listing
            .records
            .into_iter()
            .map(|(partition, blob)| Ownership {
                partition_id: partition.to_string().into(),
                owner_id: blob.owner.map(OwnerId::new),
                etag: tag(blob.version),
                last_modified: Some(system_time(blob.modified)),
            });
        Ok(OwnershipListing {
            as_of: system_time(listing.date),
            ownerships: ownerships.collect(),
        })
    }

    async fn claim_ownership(
        &self,
        _scope: &GroupScope,
        partition_id: &PartitionId,
        owner_id: Option<&OwnerId>,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let partition = number(partition_id)?;
        let claimer = owner_id.and_then(|id| self.world.member_of(id.as_str()));
        if claimer == Some(self.member) {
            self.check_claim(partition, condition);
        }
        let purpose = self.purpose(partition, owner_id, claimer);
        let owner: Option<Arc<str>> = owner_id.map(|id| id.as_str().into());
        let (operation, header) = request(condition);
        self.gate.pass().await;
        self.claiming.fetch_add(1, Ordering::Relaxed);
        let mut answer = self
            .store
            .write_owner(
                self.member,
                purpose,
                operation,
                partition,
                owner.clone(),
                header,
            )
            .await;
        // As the blob store does: a record that vanished is created, a claim on it that is.
        if answer == Ok(Err(Refusal::NotFound)) && owner.is_some() {
            self.world.reach(Mark::RecordVanished);
            answer = self
                .store
                .write_owner(
                    self.member,
                    purpose,
                    Operation::PutBlob,
                    partition,
                    owner,
                    Header::IfAbsent,
                )
                .await;
        }
        if matches!(answer, Ok(Ok(_))) && header == Header::IfAbsent {
            self.world.reach(Mark::RecordCreated);
        }
        self.claiming.fetch_sub(1, Ordering::Relaxed);
        self.gate.pass().await;
        if let (Ok(Ok(blob)), true) = (&answer, claimer == Some(self.member)) {
            self.told(partition, blob.version);
        }
        outcome(answer.map(|done| {
            done.map(|blob| Written {
                etag: tag(blob.version),
                last_modified: Some(system_time(blob.modified)),
            })
        }))
    }

    async fn list_checkpoints(
        &self,
        _scope: &GroupScope,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.gate.pass().await;
        let found = self
            .store
            .list_checkpoints(self.member, Purpose::ReadCheckpoint)
            .await;
        // What the store said, when it did: somebody who is not scheduled may hear it much later.
        for (partition, blob) in found.iter().flatten() {
            self.world.note(Happening::CheckpointRead {
                member: self.member,
                partition: *partition,
                seq: Some(blob.seq),
            });
        }
        self.gate.pass().await;
        let found: BTreeMap<Partition, CheckpointBlob> =
            found.map_err(|trouble| error(trouble, "list"))?;
        Ok(found
            .into_iter()
            .map(|(id, blob)| stored(id, &blob))
            .collect())
    }

    async fn checkpoint(
        &self,
        _scope: &GroupScope,
        partition_id: &PartitionId,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let partition = number(partition_id)?;
        self.gate.pass().await;
        let found = self
            .store
            .read_checkpoint(self.member, Purpose::ReadCheckpoint, partition)
            .await;
        if let Ok(found) = &found {
            self.world.note(Happening::CheckpointRead {
                member: self.member,
                partition,
                seq: found.as_ref().map(|blob| blob.seq),
            });
        }
        self.gate.pass().await;
        let found = found.map_err(|trouble| error(trouble, "read"))?;
        Ok(found.map(|blob| stored(partition, &blob)))
    }

    async fn update_checkpoint(
        &self,
        _scope: &GroupScope,
        checkpoint: &Checkpoint,
        condition: &WriteCondition,
    ) -> Result<WriteOutcome, StoreError> {
        let partition = number(&checkpoint.partition_id)?;
        let (Some(_), Some(seq)) = (&checkpoint.offset, checkpoint.sequence_number) else {
            let context = "a checkpoint needs both values";
            return Err(StoreError::new(StoreErrorKind::InvalidValue, context));
        };
        let (operation, header) = request(condition);
        self.gate.pass().await;
        let mut answer = self
            .store
            .write_checkpoint(
                self.member,
                Purpose::Checkpoint,
                operation,
                partition,
                seq,
                header,
            )
            .await;
        if answer == Ok(Err(Refusal::NotFound)) {
            answer = self
                .store
                .write_checkpoint(
                    self.member,
                    Purpose::Checkpoint,
                    Operation::PutBlob,
                    partition,
                    seq,
                    Header::IfAbsent,
                )
                .await;
        }
        self.gate.pass().await;
        outcome(answer.map(|done| {
            done.map(|version| Written {
                etag: tag(version),
                last_modified: None,
            })
        }))
    }
}

fn number(partition_id: &PartitionId) -> Result<Partition, StoreError> {
    partition_number(partition_id.as_str()).ok_or_else(|| {
        StoreError::new(
            StoreErrorKind::InvalidValue,
            format!("no partition {partition_id}"),
        )
    })
}

fn tag(version: u64) -> ETag {
    ETag::new(format!("{version:#X}"))
}

fn request(condition: &WriteCondition) -> (Operation, Header) {
    match condition {
        WriteCondition::Absent => (Operation::PutBlob, Header::IfAbsent),
        WriteCondition::Matches(etag) => {
            // A tag that this store never gave matches nothing.
            let digits = etag.as_str().trim_start_matches("0x");
            let version = u64::from_str_radix(digits, 16).unwrap_or(0);
            (Operation::SetMetadata, Header::IfMatch(version))
        }
        _ => (Operation::SetMetadata, Header::None),
    }
}

fn outcome(answer: Result<Result<Written, Refusal>, Trouble>) -> Result<WriteOutcome, StoreError> {
    match answer {
        Ok(Ok(written)) => Ok(WriteOutcome::Written(written)),
        Ok(Err(_)) => Ok(WriteOutcome::Lost),
        Err(Trouble::Failed) => Err(error(Trouble::Failed, "write")),
        Err(trouble) => Ok(WriteOutcome::Unknown(error(trouble, "write"))),
    }
}

fn error(trouble: Trouble, context: &str) -> StoreError {
    let kind = match trouble {
        Trouble::Failed => StoreErrorKind::Unavailable,
        Trouble::Unanswered => StoreErrorKind::Timeout,
    };
    StoreError::new(kind, context)
}

fn stored(partition: Partition, blob: &CheckpointBlob) -> StoredCheckpoint {
    StoredCheckpoint {
        checkpoint: Checkpoint {
            partition_id: partition.to_string().into(),
            offset: Some((blob.seq * 100).to_string().into()),
            sequence_number: Some(blob.seq),
            client_identifier: None,
        },
        etag: Some(tag(blob.version)),
    }
}
