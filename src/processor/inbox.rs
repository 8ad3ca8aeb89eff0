//! What has come over a link and has not been handed out.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use tokio::time::{Instant, timeout_at};

use super::options::ProcessorOptions;
use crate::error::TransportError;
use crate::model::{ReceivedEvent, UndecodableEvent};
use crate::transport::PartitionReceiver;

/// Most events taken from the receiver at once: enough to make its cost per event vanish, little enough that a stop
/// or a loss is seen soon.
pub(super) const MAX_TAKEN: usize = 128;

/// One message.
#[derive(Debug)]
pub(super) enum Arrived {
    Event(ReceivedEvent),
    Undecodable(UndecodableEvent),
}

impl Arrived {
    pub(super) fn sequence_number(&self) -> Option<i64> {
        match self {
            Self::Event(event) => Some(event.sequence_number()),
            Self::Undecodable(undecodable) => undecodable.sequence_number(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.encoded_len(),
            Self::Undecodable(undecodable) => undecodable.raw().len(),
        }
    }
}

/// Messages in the order of the partition.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Arrived>,
    bytes: usize,
    /// With so many bytes it takes no more than it has to.
    most_bytes: usize,
}

impl Inbox {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn front(&self) -> Option<&Arrived> {
        self.waiting.front()
    }

    pub(super) fn pop(&mut self) -> Option<Arrived> {
        let arrived = self.waiting.pop_front()?;
        self.bytes -= arrived.bytes();
        Some(arrived)
    }

    /// Takes in what a receiver returned. `Err`: the receiver is done.
    pub(super) fn admit(
        &mut self,
        news: Result<Vec<ReceivedEvent>, TransportError>,
    ) -> Result<(), TransportError> {
        match news {
            Ok(events) => {
                self.bytes += events.iter().map(ReceivedEvent::encoded_len).sum::<usize>();
                self.waiting.extend(events.into_iter().map(Arrived::Event));
                Ok(())
            }
            Err(error) => {
                let undecodable = error.undecodable().cloned().ok_or(error)?;
                let arrived = Arrived::Undecodable(undecodable);
                self.bytes += arrived.bytes();
                self.waiting.push_back(arrived);
                Ok(())
            }
        }
    }

    /// How many events to take when what matters is whether the link still stands. Whoever holds many takes one more
    /// at most: between two questions one is handed out at least, so they do not pile up, and no link goes unasked.
    pub(super) fn room(&self) -> usize {
        if self.len() > MAX_TAKEN || self.bytes > self.most_bytes {
            1
        } else {
            MAX_TAKEN
        }
    }

    /// Waits for the next messages; none, if there were none for `max_wait_time`.
    ///
    /// CANCEL: what has come stays in the inbox.
    pub(super) async fn fill(
        &mut self,
        receiver: &mut dyn PartitionReceiver,
        options: &ProcessorOptions,
    ) -> Result<(), TransportError> {
        let max = options.max_batch_size.map_or(MAX_TAKEN, NonZeroUsize::get);
        let Some(max_wait_time) = options.max_wait_time else {
            return self.admit(receiver.receive(max).await);
        };
        let deadline = Instant::now() + max_wait_time;
        while let Ok(news) = timeout_at(deadline, receiver.receive(max - self.len())).await {
            self.admit(news)?;
            let is_full = self.len() >= max || self.bytes > self.most_bytes;
            if options.max_batch_size.is_none() || is_full {
                break;
            }
        }
        Ok(())
    }
}
