//! The hub as one of our processors sees it.

use std::time::Duration;

use async_trait::async_trait;
use eventhubs_processor::error::TransportErrorKind;
use eventhubs_processor::transport::{PartitionReceiver, ReceiverOptions};
use eventhubs_processor::{
    EventHubProperties, EventParts, EventPosition, PartitionId, PartitionProperties, ReceivedEvent,
    Transport, TransportError,
};

use super::{MANAGEMENT, Managed, Receiver, SimHub};
use crate::bugs::Bug;
use crate::gate::Gate;
use crate::history::{Happening, Member, Partition};
use crate::payload;
use crate::world::{partition_number, system_time};

/// One processor's connection.
#[derive(Debug)]
pub(crate) struct HubClient {
    hub: SimHub,
    member: Member,
    gate: Gate,
    bug: Option<Bug>,
}

impl HubClient {
    pub(crate) fn new(hub: &SimHub, member: Member, gate: Gate, bug: Option<Bug>) -> Self {
        Self {
            hub: hub.clone(),
            member,
            gate,
            bug,
        }
    }
}

#[async_trait]
impl Transport for HubClient {
    fn fully_qualified_namespace(&self) -> &str {
        "sim.servicebus.windows.net"
    }

    fn event_hub_name(&self) -> &str {
        "hub"
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        self.gate.pass().await;
        tokio::time::sleep(MANAGEMENT).await;
        self.gate.pass().await;
        let partitions = self.hub.partitions();
        let told = match self.hub.trouble().is_managed {
            Managed::Well => partitions,
            Managed::Short => partitions / 2,
            Managed::NotAtAll => {
                return Err(TransportError::new(
                    TransportErrorKind::Timeout,
                    "management",
                ));
            }
        };
        let ids = (0..told).map(|id| id.to_string().into());
        Ok(EventHubProperties::new("hub", ids.collect()))
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        let partition = number(partition_id)?;
        self.gate.pass().await;
        tokio::time::sleep(MANAGEMENT).await;
        self.gate.pass().await;
        let last = self.hub.last(partition);
        Ok(PartitionProperties {
            event_hub_name: "hub".to_owned(),
            partition_id: partition_id.clone(),
            beginning_sequence_number: 0,
            last_enqueued_sequence_number: last,
            last_enqueued_offset: (last * 100).to_string().into(),
            last_enqueued_time: system_time(0),
            is_empty: last < 0,
        })
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let partition = number(&options.partition_id)?;
        let mut after = match &options.position {
            EventPosition::Earliest => -1,
            EventPosition::Offset { offset, inclusive } => {
                let offset = offset.as_str().parse::<i64>().unwrap_or(-100);
                offset / 100 - i64::from(*inclusive)
            }
            EventPosition::SequenceNumber {
                sequence_number,
                inclusive,
            } => *sequence_number - i64::from(*inclusive),
            _ => self.hub.last(partition),
        };
        let mut level = options.owner_level;
        match self.bug {
            Some(Bug::SkipOnOpen) if after >= 0 => after += 1,
            Some(Bug::OpenAtLatest) => after = self.hub.last(partition),
            Some(Bug::NoOwnerLevel) => level = None,
            _ => {}
        }
        let asked = self.hub.world.now();
        self.gate.pass().await;
        if self.hub.world.now() > asked {
            self.hub.world.note(Happening::AttachHeldUp {
                member: self.member,
                partition,
                asked,
            });
        }
        let opened = self.hub.attach(self.member, partition, after, level).await;
        self.gate.pass().await;
        let receiver = opened.map_err(|kind| {
            self.hub.world.note(Happening::AttachFailed {
                member: self.member,
                partition,
            });
            TransportError::new(kind, "attach")
        })?;
        Ok(Box::new(GatedReceiver {
            receiver,
            member: self.member,
            hub: self.hub.clone(),
            partition,
            last: -1,
            seed: self.hub.world.seed().0,
            gate: self.gate.clone(),
            bug: self.bug,
        }))
    }

    async fn close(&self) {}
}

fn number(partition_id: &PartitionId) -> Result<Partition, TransportError> {
    partition_number(partition_id.as_str()).ok_or_else(|| {
        let context = format!("partition {partition_id}");
        TransportError::new(TransportErrorKind::NotFound, context)
    })
}

#[derive(Debug)]
struct GatedReceiver {
    receiver: Receiver,
    member: Member,
    hub: SimHub,
    partition: Partition,
    /// The last event that was handed out.
    last: i64,
    seed: u64,
    gate: Gate,
    bug: Option<Bug>,
}

#[async_trait]
impl PartitionReceiver for GatedReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        self.gate.pass().await;
        let max = if self.bug == Some(Bug::Hoard) {
            usize::MAX
        } else {
            max
        };
        let received = self.receiver.receive(max).await;
        let mut received = received.map_err(|kind| TransportError::new(kind, "receive"))?;
        if let Some(first @ (1.., _)) = received.first().copied()
            && received.len() < max
            && first.0 - 1 <= self.last
            && self.hub.draws_repeat()
        {
            received.insert(0, (first.0 - 1, first.1));
        }
        let mut events: Vec<_> = received
            .into_iter()
            .map(|(seq, enqueued)| {
                let mut body = payload::body(self.seed, self.partition, seq);
                if self.bug == Some(Bug::CorruptBody) && seq % 17 == 5 {
                    body[3] ^= 1;
                }
                let time = system_time(0) + Duration::from_millis(enqueued);
                ReceivedEvent::new(EventParts::new(seq, (seq * 100).to_string(), time, body))
            })
            .collect();
        // One that comes twice is dropped at once.
        let new = events.iter();
        let new = new.filter(|event| event.sequence_number() > self.last);
        let (mut count, mut bytes) = (0, 0);
        for event in new {
            count += 1;
            bytes += event.body().len();
        }
        self.last = events
            .last()
            .map_or(self.last, ReceivedEvent::sequence_number);
        self.hub.world.note(Happening::Taken {
            member: self.member,
            partition: self.partition,
            events: count,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
        if self.bug == Some(Bug::Reorder) && events.len() > 1 {
            events.swap(0, 1);
        }
        Ok(events)
    }

    fn silence(&self) -> Option<Duration> {
        let silence = self.receiver.silence().unwrap_or(0);
        Some(Duration::from_millis(silence))
    }

    async fn close(self: Box<Self>) {
        self.gate.pass().await;
    }
}
