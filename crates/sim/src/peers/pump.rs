//! How a foreign processor reads a partition: in batches, with a checkpoint that asks nobody.

use std::time::Duration;

use eventhubs_processor::error::TransportErrorKind;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::history::{Happening, Member, Partition};
use crate::hub::{Receiver, SimHub};
use crate::store::{Header, Operation, Purpose, Refusal, SimStore};
use crate::terms::Terms;
use crate::world::World;

/// What the foreign application does with events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerWork {
    pub(crate) handler: Duration,
    /// Events that make a batch, each followed by a checkpoint.
    pub(crate) batch: usize,
}

/// A partition being read. Dropping it cuts the reading.
#[derive(Debug)]
pub(super) struct Pump {
    task: JoinHandle<()>,
}

impl Pump {
    pub(super) fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Everything a pump needs to know.
#[derive(Clone, Debug)]
pub(super) struct PumpSetup {
    pub(super) world: World,
    pub(super) store: SimStore,
    pub(super) hub: SimHub,
    pub(super) terms: Terms,
    pub(super) member: Member,
    pub(super) work: PeerWork,
}

impl PumpSetup {
    /// Reads `partition` after the checkpoint until the link is stolen.
    pub(super) fn start(&self, partition: Partition, checkpoint: Option<i64>) -> Pump {
        let setup = self.clone();
        let task = tokio::spawn(setup.read(partition, checkpoint.unwrap_or(-1)));
        Pump { task }
    }

    async fn read(self, partition: Partition, mut after: i64) {
        loop {
            match self
                .hub
                .attach(self.member, partition, after, Some(0))
                .await
            {
                Ok(mut receiver) => {
                    if self.deliver(partition, &mut receiver, &mut after).await
                        == TransportErrorKind::OwnershipLost
                    {
                        return;
                    }
                }
                Err(TransportErrorKind::OwnershipLost | TransportErrorKind::NotFound) => return,
                Err(_) => {}
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn deliver(
        &self,
        partition: Partition,
        receiver: &mut Receiver,
        after: &mut i64,
    ) -> TransportErrorKind {
        let (member, term) = (self.member, self.terms.next());
        self.world.note(Happening::TermStarted {
            member,
            partition,
            term,
        });
        let error = loop {
            let events = match receiver.receive(self.work.batch).await {
                Ok(events) => events,
                Err(kind) => break kind,
            };
            // A batch in hand is finished and checkpointed even if the link is stolen meanwhile.
            for (number, (seq, _)) in events.into_iter().enumerate() {
                self.world.note(Happening::HandlerStarted {
                    member,
                    partition,
                    term,
                    seq,
                    is_same_call: number > 0,
                });
                sleep(self.work.handler).await;
                self.world.note(Happening::HandlerDone {
                    member,
                    partition,
                    term,
                    seq,
                });
                *after = seq;
            }
            self.checkpoint(partition, *after).await;
        };
        self.world.note(Happening::TermEnded {
            member,
            partition,
            term,
            by_shutdown: false,
        });
        error
    }

    /// Metadata first, the blob if there is none: and no condition on either.
    async fn checkpoint(&self, partition: Partition, seq: i64) {
        let write = |operation| {
            self.store.write_checkpoint(
                self.member,
                Purpose::Foreign,
                operation,
                partition,
                seq,
                Header::None,
            )
        };
        if write(Operation::SetMetadata).await == Ok(Err(Refusal::NotFound)) {
            let _ = write(Operation::PutBlob).await;
        }
    }
}
