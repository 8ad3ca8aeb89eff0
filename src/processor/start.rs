//! Where a term starts.

use std::time::Duration;

use tokio::time::timeout;

use super::checkpointer::Replayed;
use super::handler::CloseReason;
use super::progress::Place;
use super::pump::Detour;
use super::report::contained;
use super::term::{Term, TermEnd};
use crate::error::{CheckpointError, InvalidPositionError, ProcessingError, StoreErrorKind};
use crate::model::{Checkpoint, EventPosition, PartitionProperties};
use crate::telemetry;

/// How long a term waits to hear how long its partition is. Without an answer it starts: the service has a say too.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// Where a receiver starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) position: EventPosition,
    /// The number of the event that the position names by its offset, if it is known.
    pub(super) after: Option<i64>,
}

impl From<EventPosition> for Start {
    fn from(position: EventPosition) -> Self {
        Self {
            position,
            after: None,
        }
    }
}

impl Start {
    /// After an event that was delivered.
    pub(super) fn after(place: &Place) -> Self {
        Self {
            position: EventPosition::offset(place.offset().clone()),
            after: Some(place.sequence_number()),
        }
    }

    /// `None`: the record holds no position.
    fn after_checkpoint(checkpoint: &Checkpoint) -> Option<Self> {
        let position = EventPosition::after_checkpoint(checkpoint)?;
        let is_offset = matches!(position, EventPosition::Offset { .. });
        Some(Self {
            position,
            after: checkpoint.sequence_number.filter(|_| is_offset),
        })
    }
}

impl Term<'_> {
    /// Reads the checkpoint and tells the application of the start; it may wish for a position.
    pub(super) async fn begin(
        &mut self,
    ) -> Result<(Option<Checkpoint>, Option<EventPosition>), TermEnd> {
        let mut backoff = self.pump.backoff();
        let checkpoint = loop {
            let signal = self.pump.signal.clone();
            // Dropped midway, it has at most written what stood there.
            let read = tokio::select! {
                biased;
                reason = signal.stopped() => return Err(TermEnd::Closed(reason)),
                read = self.read_checkpoint() => read,
            };
            let error = match read {
                Ok(checkpoint) => break checkpoint,
                Err(CheckpointError::Store(error))
                    if error.kind() == StoreErrorKind::MalformedRecord =>
                {
                    return Err(self.nowhere(InvalidPositionError::Unreadable(error)).await);
                }
                Err(CheckpointError::Store(error)) => ProcessingError::ReadCheckpoint(error),
                Err(error) => ProcessingError::Checkpoint(error),
            };
            let asked = error.retry_after();
            self.report(error).await;
            self.pause(&mut backoff, asked).await?;
        };
        let _running = self.caller.cell.runs("on_partition_initialize");
        let hook = self.handler().on_partition_initialize(&self.context);
        match contained("on_partition_initialize", hook).await {
            Ok(wished) => Ok((checkpoint, wished)),
            Err(error) => {
                self.report(error).await;
                Err(TermEnd::Failed)
            }
        }
    }

    async fn read_checkpoint(&mut self) -> Result<Option<Checkpoint>, CheckpointError> {
        let checkpointer = self.context.checkpointer();
        let is_reset = self
            .pump
            .detour
            .as_ref()
            .is_some_and(|detour| detour.is_reset);
        if self.options().strict_fencing && !self.pump.is_fenced && !is_reset {
            let checkpoint = checkpointer.read_and_touch().await?;
            self.pump.is_fenced = true;
            return Ok(checkpoint);
        }
        let checkpoint = checkpointer.read(is_reset).await;
        checkpoint.map_err(CheckpointError::Store)
    }

    /// Where the term starts. `Err`: it ends before that is known.
    pub(super) async fn start(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        wished: Option<EventPosition>,
    ) -> Result<Start, TermEnd> {
        if let Some(Detour { start, .. }) = &self.pump.detour {
            let mut start = start.clone();
            start.position = self.pinned(start.position).await?;
            if let Some(detour) = &mut self.pump.detour {
                detour.start = start.clone();
            }
            return Ok(start);
        }
        if let Some(checkpoint) = checkpoint
            && let Some(start) = Start::after_checkpoint(checkpoint)
        {
            self.check_against_log(checkpoint).await?;
            if let Some(number) = checkpoint.sequence_number
                && self.sequence.last().is_none()
            {
                self.sequence.start_after(number);
            }
            return Ok(start);
        }
        if let Some(position) = &self.pump.started_at {
            return Ok(position.clone().into());
        }
        let position =
            wished.unwrap_or_else(|| self.options().starting_position(&self.pump.partition_id));
        let position = self.pinned(position).await?;
        self.pump.started_at = Some(position.clone());
        Ok(position.into())
    }

    /// Turns "latest" into a place in the log. Asked again after a lost link, "latest" would be a later place, and what
    /// came in between would never be read.
    async fn pinned(&self, position: EventPosition) -> Result<EventPosition, TermEnd> {
        if position != EventPosition::Latest {
            return Ok(position);
        }
        let mut backoff = self.pump.backoff();
        loop {
            let error = match self.properties().await {
                Ok(properties) if properties.last_enqueued_sequence_number < 0 => {
                    return Ok(EventPosition::Earliest);
                }
                Ok(properties) => {
                    let last = properties.last_enqueued_sequence_number;
                    return Ok(EventPosition::sequence_number(last));
                }
                Err(PropertiesEnd::Stopped(reason)) => return Err(TermEnd::Closed(reason)),
                Err(PropertiesEnd::Failed(error)) => error,
            };
            let asked = error.retry_after();
            self.report(error).await;
            self.pause(&mut backoff, asked).await?;
        }
    }

    /// Looks whether the checkpoint can belong to this log. The service refuses most positions that cannot, but not
    /// all, and says nothing about events that expired.
    async fn check_against_log(&mut self, checkpoint: &Checkpoint) -> Result<(), TermEnd> {
        let Some(sequence_number) = checkpoint.sequence_number else {
            return Ok(());
        };
        let mut backoff = self.pump.backoff();
        let mut is_second_look = false;
        loop {
            let properties = match timeout(LOOK_FOR, self.properties()).await {
                Ok(Ok(properties)) => properties,
                Ok(Err(PropertiesEnd::Stopped(reason))) => return Err(TermEnd::Closed(reason)),
                Ok(Err(PropertiesEnd::Failed(error))) => {
                    tracing::debug!(
                        target: telemetry::PROCESSOR,
                        partition_id = %self.pump.partition_id, error = %telemetry::chain(&error),
                        "the checkpoint is not checked against the partition"
                    );
                    return Ok(());
                }
                Err(_) => return Ok(()),
            };
            let last_enqueued = properties.last_enqueued_sequence_number;
            if last_enqueued >= sequence_number {
                let missing = properties.beginning_sequence_number - sequence_number - 1;
                if missing > 0 && !properties.is_empty {
                    let error = ProcessingError::EventsMissing {
                        after: sequence_number,
                        missing,
                    };
                    self.report(error).await;
                    self.sequence
                        .start_after(properties.beginning_sequence_number - 1);
                }
                return Ok(());
            }
            // One answer may be an old one.
            if is_second_look {
                let error = InvalidPositionError::BeyondEnd {
                    checkpoint: sequence_number,
                    last_enqueued,
                };
                return Err(self.nowhere(error).await);
            }
            is_second_look = true;
            self.pause(&mut backoff, None).await?;
        }
    }

    async fn properties(&self) -> Result<PartitionProperties, PropertiesEnd> {
        let transport = &self.pump.shared.transport;
        tokio::select! {
            biased;
            reason = self.pump.signal.stopped() => Err(PropertiesEnd::Stopped(reason)),
            properties = transport.partition_properties(&self.pump.partition_id) => {
                properties.map_err(|error| PropertiesEnd::Failed(ProcessingError::EventHub(error)))
            }
        }
    }

    /// The term cannot start, or go on, where it should. Notes what the policy puts in its place.
    pub(super) async fn nowhere(&mut self, error: InvalidPositionError) -> TermEnd {
        self.report(ProcessingError::InvalidPosition(error)).await;
        // A place that somebody asked for is not tried again: next is the checkpoint, and if that leads nowhere
        // either, the policy.
        if self.pump.detour.take().is_some() {
            return TermEnd::Nowhere { is_replaced: true };
        }
        let Some(position) = self.options().invalid_position.position() else {
            return TermEnd::Nowhere { is_replaced: false };
        };
        tracing::warn!(
            target: telemetry::PROCESSOR,
            partition_id = %self.pump.partition_id, ?position,
            "the partition starts elsewhere, as `invalid_position` says; the next checkpoint replaces the stored one"
        );
        self.pump.detour = Some(Detour {
            start: position.into(),
            is_reset: true,
        });
        TermEnd::Nowhere { is_replaced: true }
    }

    /// Notes where a replay goes on after a failure.
    pub(super) async fn remember_detour(&mut self) {
        let Some(detour) = &mut self.pump.detour else {
            return;
        };
        match self.context.checkpointer().replayed().await {
            Replayed::Nothing => {}
            Replayed::Until(checkpoint) => {
                if let Some(start) = Start::after_checkpoint(&checkpoint) {
                    detour.start = start;
                }
            }
            Replayed::Beyond => self.pump.detour = None,
        }
    }
}

enum PropertiesEnd {
    Stopped(CloseReason),
    Failed(ProcessingError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_with_an_offset_that_a_record_has_both_of() {
        for (offset, sequence_number, after) in [
            (Some("200"), Some(2), Some(2)),
            (Some("200"), None, None),
            (None, Some(2), None),
        ] {
            let checkpoint = Checkpoint {
                partition_id: "0".into(),
                offset: offset.map(Into::into),
                sequence_number,
                client_identifier: None,
            };
            let start = Start::after_checkpoint(&checkpoint).unwrap();
            assert_eq!(start.after, after, "{start:?}");
        }
    }
}
