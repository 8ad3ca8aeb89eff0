//! The task that owns a receiver of azeventhubs, and the handle to it that the processor reads from.

use std::time::Duration;

use async_trait::async_trait;
use azeventhubs::primitives::PartitionReceiver as AzReceiver;
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::transport::PartitionReceiver;
use eventhubs_processor::{ReceivedEvent, TransportError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::convert;
use crate::failure::{closed, failure};
use crate::policy::NoRecovery;

/// Longest time that azeventhubs gets to close something: on a dead connection it waits for ever.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that wait between the task and the processor; as many again wait in the library, which gets no new credit
/// for those it could not hand over.
const QUEUE: usize = 128;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Reader {
    doing: String,
    events: mpsc::Receiver<Result<ReceivedEvent, TransportError>>,
    /// What came behind the events of the last batch.
    failed: Option<TransportError>,
    task: JoinHandle<()>,
    transport_closes: CancellationToken,
    /// Closes the link and the connection, also if the reader is merely dropped.
    stop: DropGuard,
}

impl Reader {
    pub(crate) fn spawn(
        doing: String,
        receiver: AzReceiver<NoRecovery>,
        transport_closes: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let stop = transport_closes.child_token();
        let (sender, events) = mpsc::channel(QUEUE);
        let task = tasks.spawn(run(doing.clone(), receiver, sender, stop.clone()));
        Self {
            doing,
            events,
            failed: None,
            task,
            transport_closes,
            stop: stop.drop_guard(),
        }
    }
}

async fn run(
    doing: String,
    mut receiver: AzReceiver<NoRecovery>,
    events: mpsc::Sender<Result<ReceivedEvent, TransportError>>,
    stop: CancellationToken,
) {
    let read = async {
        loop {
            let read = next(&doing, &mut receiver).await;
            let is_over = read.is_err();
            if events.send(read).await.is_err() || is_over {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = read => {}
    }
    drop(events);
    match timeout(CLOSE_TIMEOUT, receiver.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("{doing}: not closed in order: {error}"),
        Err(_) => tracing::debug!("{doing}: dropped, because closing takes too long"),
    }
}

/// Waits for the next event.
///
/// One at a time, because azeventhubs waits until a batch is full.
async fn next(
    doing: &str,
    receiver: &mut AzReceiver<NoRecovery>,
) -> Result<ReceivedEvent, TransportError> {
    loop {
        let mut batch = receiver
            .recv_batch(1, None)
            .await
            .map_err(|error| failure(doing, error))?;
        // None after a year without an event.
        let Some(event) = batch.next() else { continue };
        return convert::event(event.into_raw_amqp_message()).map_err(|missing| {
            TransportError::new(
                Kind::UndecodableMessage,
                format!(
                    "{doing}: message annotation `{}` is missing or of the wrong type",
                    missing.annotation
                ),
            )
        });
    }
}

#[async_trait]
impl PartitionReceiver for Reader {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut read = Vec::new();
        if self.events.recv_many(&mut read, max.max(1)).await == 0 {
            // The task says how it ends, unless it was stopped or azeventhubs panicked.
            return Err(match self.transport_closes.is_cancelled() {
                true => closed(&self.doing),
                false => TransportError::new(Kind::LinkDetached, &*self.doing),
            });
        }
        let mut batch = Vec::with_capacity(read.len());
        for read in read {
            match read {
                Ok(event) => batch.push(event),
                Err(error) if batch.is_empty() => return Err(error),
                Err(error) => self.failed = Some(error),
            }
        }
        Ok(batch)
    }

    async fn close(self: Box<Self>) {
        let Self { task, stop, .. } = *self;
        drop(stop);
        if let Err(error) = task.await {
            tracing::warn!("the task of a receiver ended in a panic: {error}");
        }
    }
}
