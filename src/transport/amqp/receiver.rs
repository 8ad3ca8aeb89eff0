//! Receiving the events of one partition.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::{Fields, ReceiverSettleMode, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Body, Source};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::FutureExt as _;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{TransportError, TransportErrorKind};
use crate::model::ReceivedEvent;
use crate::transport::{PartitionReceiver, ReceiverOptions};

use super::connection::Connection;
use super::deadline::Deadline;
use super::endpoint::Endpoint;
use super::events::{End, Payload, Registered};
use super::failure::{self, Failure};
use super::filter::{FILTER_CODE, FILTER_NAME, selector};
use super::wire::message;
use super::{AmqpOptions, TARGET};

/// Most credit given at once: an event that waits costs some hundred bytes besides its own.
const MAX_CREDIT: u32 = 5000;

/// PROTOCOL: session window of a receiver, in transfers. The library does not see the events and does not announce
/// the window anew for them, but every flow does, and between two flows no more can come than this: messages of
/// 64 MiB in frames of 512 bytes for all of the credit.
const WINDOW: u32 = 1 << 29;

/// Silence after which the credit is told again, in case the frame that told it was lost on the service's side
/// (azure-sdk-for-java#17983). Telling it twice changes nothing.
const REMIND_AFTER: Duration = Duration::from_secs(60);

/// A link to one partition, on a session of its own: a session that ends takes one partition with it, not all,
/// and recovery of the link and of the session are one thing.
pub(super) struct AmqpReceiver {
    // Before the session, so that it is dropped first: detach, then end.
    link: Receiver,
    session: SessionHandle<()>,
    events: Registered,
    connection: Arc<Connection>,
    audience: String,
    doing: String,
    prefetch: u32,
    /// Whether the service does not know yet about the room there is.
    owes_credit: bool,
    /// Messages behind one that is no event. They have been taken out of the queue.
    behind: Vec<Payload>,
    /// A message that is no event, for the next call.
    failed: Option<TransportError>,
    /// How the link ended. Events that came before are returned first.
    ended: Option<Failure>,
    is_done: bool,
    closed: CancellationToken,
    close_timeout: Duration,
}

impl fmt::Debug for AmqpReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpReceiver")
            .field("doing", &self.doing)
            .field("is_done", &self.is_done)
            .finish_non_exhaustive()
    }
}

/// What a receiver needs to know besides its options.
pub(super) struct Context<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) options: &'a AmqpOptions,
    pub(super) closed: &'a CancellationToken,
}

impl AmqpReceiver {
    /// Attaches a link for which `audience` has been authorized.
    pub(super) async fn attach(
        context: &Context<'_>,
        options: &ReceiverOptions,
        audience: &str,
        deadline: &Deadline,
    ) -> Result<Self, Failure> {
        let doing = format!(
            "receiving from partition {} of event hub {} in consumer group {}",
            options.partition_id, context.endpoint.event_hub, options.consumer_group
        );
        let selector = selector(&options.position).ok_or_else(|| {
            Failure::of_link(TransportError::new(
                TransportErrorKind::InvalidPosition,
                format!("{doing}: the offset cannot be sent"),
            ))
        })?;
        let source = Source::builder()
            .address(
                context
                    .endpoint
                    .partition_address(&options.consumer_group, &options.partition_id),
            )
            .add_to_filter(
                FILTER_NAME,
                Described {
                    descriptor: Descriptor::Code(FILTER_CODE),
                    value: Value::String(selector),
                },
            )
            .build();
        let prefetch = options.prefetch.get().min(MAX_CREDIT);
        let mut session = context.connection.sessions.begin(WINDOW, deadline).await?;
        // The name is never used again, so that a link the service has not let go of yet cannot be in the way.
        let name = Uuid::new_v4().to_string();
        let links = &context.connection.links;
        let events = links.register(name, prefetch, options.prefetch_bytes);
        let attach = Receiver::builder()
            .name(events.name())
            .source(source)
            // One disposition per event would cost three times the CPU and says nothing: progress is in the
            // checkpoints.
            .sender_settle_mode(SenderSettleMode::Settled)
            .receiver_settle_mode(ReceiverSettleMode::First)
            .max_message_size(context.options.message_limit())
            .set_desired_capabilities(capabilities(options))
            .properties(link_properties(options))
            .credit_mode(CreditMode::Manual)
            .attach(&mut session);
        let link = deadline
            .wait(&doing, Box::pin(attach))
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::attach_receiver(&doing, error))?;
        let mut receiver = Self {
            link,
            session,
            events,
            connection: Arc::clone(context.connection),
            audience: audience.to_owned(),
            doing,
            prefetch,
            owes_credit: true,
            behind: Vec::new(),
            failed: None,
            ended: None,
            is_done: false,
            closed: context.closed.clone(),
            close_timeout: context.options.close_timeout,
        };
        // Events start to come now, not when somebody asks for the first.
        let _ = receiver.events.queue().take(0);
        receiver.tell_credit(deadline).await?;
        Ok(receiver)
    }

    /// Has a flow sent. What it says is put in on the way (`events/sessions.rs`): the library does not know.
    async fn tell_credit(&mut self, deadline: &Deadline) -> Result<(), Failure> {
        // CANCEL: the flag is what a cancelled call leaves behind, and the next call tells the credit again.
        self.owes_credit = true;
        deadline
            .wait(&self.doing, self.link.set_credit(self.prefetch))
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::illegal_state(&self.doing, error))?;
        self.owes_credit = false;
        Ok(())
    }

    /// Tells the credit, if that needs no waiting; else the next call does it.
    fn top_up(&mut self) {
        self.owes_credit = true;
        if let Some(Ok(())) = self.link.set_credit(self.prefetch).now_or_never() {
            self.owes_credit = false;
        }
    }

    /// Notes a failure of the link: what broke with it, and what the next call returns.
    fn fail(&mut self, failure: Failure) -> TransportError {
        self.is_done = true;
        if self.closed.is_cancelled() {
            return TransportError::new(TransportErrorKind::Closed, self.doing.as_str());
        }
        self.connection.vitals.note(&failure);
        if failure.error.kind() == TransportErrorKind::Unauthorized {
            // The token is not worth what its expiry says; the next receiver gets a new one.
            self.connection.cbs.forget(&self.audience);
        }
        match self.events.queue().why() {
            Some(End::Violation(why)) => {
                TransportError::new(failure.error.kind(), format!("{}: {why}", self.doing))
                    .with_source(failure.error)
            }
            _ => failure.error,
        }
    }

    /// Events that are here, `max` at most. Empty: there is nothing yet. `Err`: a message that is no event, or the
    /// link has come to an end that the library knows nothing of.
    fn take(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        let taken = self.events.queue().take(max);
        if taken.end == Some(End::Stolen) {
            // Somebody else reads the partition: what came before is theirs, too.
            self.behind.clear();
            self.failed = None;
            return Ok(Vec::new());
        }
        if taken.owes_credit {
            self.top_up();
        }
        if let Some(error) = self.failed.take() {
            self.behind.extend(taken.messages);
            return Err(error);
        }
        let is_drained = taken.messages.is_empty() && self.behind.is_empty();
        if is_drained && taken.end == Some(End::Overrun) {
            self.is_done = true;
            return Err(TransportError::new(
                TransportErrorKind::LinkDetached,
                format!(
                    "{}: the events became so much larger than those before that not all could be kept",
                    self.doing
                ),
            ));
        }
        let mut messages = std::mem::take(&mut self.behind);
        messages.extend(taken.messages);
        self.convert(messages)
    }

    fn convert(&mut self, messages: Vec<Payload>) -> Result<Vec<ReceivedEvent>, TransportError> {
        let mut events = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while let Some(payload) = messages.next() {
            let undecodable = match payload {
                Payload::Whole(raw) => match message::event(raw) {
                    Ok(event) => {
                        events.push(event);
                        continue;
                    }
                    Err(undecodable) => undecodable,
                },
                Payload::TooLarge { start, len } => message::too_large(&start, len),
            };
            self.behind = messages.collect();
            let error = TransportError::of_undecodable(&self.doing, undecodable);
            if events.is_empty() {
                return Err(error);
            }
            // What came before it is good; the caller learns of it next time.
            self.failed = Some(error);
            break;
        }
        Ok(events)
    }

    /// Why the link ended, if the library knows already.
    fn reason(&mut self) -> Option<Failure> {
        match self.link.recv::<Body<Value>>().now_or_never() {
            Some(Err(error)) => Some(failure::receive(&self.doing, error)),
            Some(Ok(_)) | None => None,
        }
    }

    fn credit_deadline(&self) -> Deadline {
        Deadline::new(
            tokio::time::Instant::now() + self.close_timeout,
            &self.closed,
        )
    }

    /// Waits for events or for the end of the link, reminding the service of the credit now and then.
    async fn wait(&mut self) -> Result<(), Failure> {
        if self.owes_credit {
            let deadline = self.credit_deadline();
            let told = self.tell_credit(&deadline).await;
            told.map_err(|failure| self.reason().unwrap_or(failure))?;
        }
        let is_late = tokio::select! {
            biased;
            () = self.events.queue().news() => false,
            // Events do not come this way, but the end of the link does.
            end = self.link.recv::<Body<Value>>() => {
                return match end {
                    Err(error) => Err(failure::receive(&self.doing, error)),
                    Ok(_) => Err(Failure::of_link(TransportError::new(
                        TransportErrorKind::LinkDetached,
                        format!("{}: an event took the wrong way", self.doing),
                    ))),
                };
            }
            () = sleep(REMIND_AFTER) => true,
        };
        if is_late {
            let deadline = self.credit_deadline();
            self.tell_credit(&deadline).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl PartitionReceiver for AmqpReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        if self.is_done {
            return Err(TransportError::new(
                TransportErrorKind::LinkDetached,
                format!("{}: the receiver is done", self.doing),
            ));
        }
        loop {
            // CANCEL: what is taken is returned without waiting, so a dropped call has taken nothing.
            let events = self.take(max.max(1))?;
            if !events.is_empty() {
                return Ok(events);
            }
            if let Some(failure) = self.ended.take() {
                return Err(self.fail(failure));
            }
            if let Err(failure) = self.wait().await {
                // Events may have come together with the end, and go first.
                self.ended = Some(failure);
            }
        }
    }

    fn buffered_bytes(&self) -> Option<usize> {
        Some(self.events.queue().buffered_bytes())
    }

    fn set_byte_limit(&mut self, bytes: usize) {
        self.events.queue().set_byte_limit(bytes);
    }

    fn remind(&mut self) {
        self.owes_credit = true;
    }

    fn abandon_connection(&self) {
        self.connection.vitals.shun();
    }

    async fn close(self: Box<Self>) {
        let Self {
            link,
            mut session,
            connection,
            doing,
            close_timeout,
            ..
        } = *self;
        // Half of the time for the link, half for its session. A link that stays attached on the other side does
        // no harm: the next receiver of the partition takes it over.
        if timeout(close_timeout / 2, link.close()).await.is_err() {
            tracing::debug!(target: TARGET, doing, "the detach was not answered");
        }
        if timeout(close_timeout / 2, session.end()).await.is_err() {
            tracing::info!(target: TARGET, doing, "the end of a session was not answered");
            connection.vitals.retire();
        }
    }
}

fn capabilities(options: &ReceiverOptions) -> Vec<Symbol> {
    // PROTOCOL: without it a geo-replicated namespace refuses its own offsets.
    let mut capabilities = vec![Symbol::from("com.microsoft:georeplication")];
    if options.track_last_enqueued_event_properties {
        capabilities.push(Symbol::from("com.microsoft:enable-receiver-runtime-metric"));
    }
    capabilities
}

fn link_properties(options: &ReceiverOptions) -> Fields {
    let level = options
        .owner_level
        .map(|level| (Symbol::from("com.microsoft:epoch"), Value::Long(level)));
    let name = options.receiver_name.clone().map(|name| {
        (
            Symbol::from("com.microsoft:receiver-name"),
            Value::String(name),
        )
    });
    level.into_iter().chain(name).collect()
}
