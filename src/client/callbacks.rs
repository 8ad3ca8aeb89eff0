//! A handler made of separate callbacks.

use std::fmt;
use std::future::Future;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::error::ProcessingError;
use crate::model::{EventPosition, ReceivedEvent};
use crate::processor::{CloseReason, EventHandler, HandlerResult, PartitionContext};

type OnEvent =
    Box<dyn Fn(PartitionContext, ReceivedEvent) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
type OnEventBatch = Box<
    dyn Fn(PartitionContext, Vec<ReceivedEvent>) -> BoxFuture<'static, HandlerResult> + Send + Sync,
>;
type OnInitialize =
    Box<dyn Fn(PartitionContext) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
type OnClose =
    Box<dyn Fn(PartitionContext, CloseReason) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
type OnError = Box<dyn Fn(Option<&PartitionContext>, &ProcessingError) + Send + Sync>;

/// The one callback that must be given.
enum OnEvents {
    Each(OnEvent),
    Batch(OnEventBatch),
}

/// The callbacks given to [`receive`](super::EventHubConsumerClient::receive).
pub(super) struct Callbacks {
    on_events: OnEvents,
    pub(super) on_partition_initialize: Option<OnInitialize>,
    pub(super) on_partition_close: Option<OnClose>,
    pub(super) on_error: Option<OnError>,
}

impl Callbacks {
    pub(super) fn on_event<F, Fut>(on_event: F) -> Self
    where
        F: Fn(PartitionContext, ReceivedEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        Self::new(OnEvents::Each(Box::new(move |context, event| {
            on_event(context, event).boxed()
        })))
    }

    pub(super) fn on_event_batch<F, Fut>(on_event_batch: F) -> Self
    where
        F: Fn(PartitionContext, Vec<ReceivedEvent>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        Self::new(OnEvents::Batch(Box::new(move |context, events| {
            on_event_batch(context, events).boxed()
        })))
    }

    fn new(on_events: OnEvents) -> Self {
        Self {
            on_events,
            on_partition_initialize: None,
            on_partition_close: None,
            on_error: None,
        }
    }
}

impl EventHandler for Callbacks {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        match &self.on_events {
            OnEvents::Each(callback) => callback(context.clone(), event).await,
            OnEvents::Batch(callback) => callback(context.clone(), vec![event]).await,
        }
    }

    async fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> HandlerResult {
        match &self.on_events {
            OnEvents::Each(callback) => {
                for event in events {
                    callback(context.clone(), event).await?;
                }
                Ok(())
            }
            OnEvents::Batch(callback) => callback(context.clone(), events).await,
        }
    }

    async fn on_partition_initialize(
        &self,
        context: &PartitionContext,
    ) -> HandlerResult<Option<EventPosition>> {
        if let Some(callback) = &self.on_partition_initialize {
            callback(context.clone()).await?;
        }
        Ok(None)
    }

    async fn on_partition_close(
        &self,
        context: &PartitionContext,
        reason: CloseReason,
    ) -> HandlerResult {
        match &self.on_partition_close {
            Some(callback) => callback(context.clone(), reason).await,
            None => Ok(()),
        }
    }

    async fn on_error(&self, context: Option<&PartitionContext>, error: &ProcessingError) {
        if let Some(callback) = &self.on_error {
            callback(context, error);
        }
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").finish_non_exhaustive()
    }
}
