//! Receiving the events of one partition.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::{CreditMode, RecvError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::{Fields, ReceiverSettleMode, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Body, Message, Source};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::FutureExt as _;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{TransportError, TransportErrorKind};
use crate::model::ReceivedEvent;
use crate::transport::{PartitionReceiver, ReceiverOptions};

use super::connection::Connection;
use super::convert::event_parts;
use super::deadline::Deadline;
use super::endpoint::Endpoint;
use super::failure::{self, Failure};
use super::filter::{FILTER_CODE, FILTER_NAME, selector};
use super::{AmqpOptions, TARGET};

/// Most credit given at once. The library's queue holds 65 535 frames; with more messages under way than fit,
/// one slow partition would hold up every other on the connection.
const MAX_CREDIT: u32 = 5000;

/// Silence after which the credit is told again, in case the frame that told it was lost on the service's side
/// (azure-sdk-for-java#17983). Telling it twice changes nothing.
const REMIND_AFTER: Duration = Duration::from_secs(60);

type Incoming = Message<Body<Value>>;

/// A link to one partition, on a session of its own: a session that ends takes one partition with it, not all,
/// and recovery of the link and of the session are one thing.
pub(super) struct AmqpReceiver {
    // Before the session, so that it is dropped first: detach, then end.
    link: Receiver,
    session: SessionHandle<()>,
    connection: Arc<Connection>,
    audience: String,
    doing: String,
    prefetch: u32,
    /// Whether the service does not know yet about the room there is.
    owes_credit: bool,
    failed: Option<TransportError>,
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
        let mut session = context
            .connection
            .sessions
            .begin(prefetch, deadline)
            .await?;
        let attach = Receiver::builder()
            // Never used again, so that a link the service has not let go of yet cannot be in the way.
            .name(Uuid::new_v4().to_string())
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
            connection: Arc::clone(context.connection),
            audience: audience.to_owned(),
            doing,
            prefetch,
            owes_credit: true,
            failed: None,
            is_done: false,
            closed: context.closed.clone(),
            close_timeout: context.options.close_timeout,
        };
        // Events start to come now, not when somebody asks for the first.
        receiver.tell_credit(deadline).await?;
        Ok(receiver)
    }

    async fn tell_credit(&mut self, deadline: &Deadline) -> Result<(), Failure> {
        // CANCEL: the library counts the credit as given before the frame is on its way; the flag is what a
        // cancelled call leaves behind, and the next call tells it again.
        self.owes_credit = true;
        deadline
            .wait(&self.doing, self.link.set_credit(self.prefetch))
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::illegal_state(&self.doing, error))?;
        self.owes_credit = false;
        Ok(())
    }

    /// Grants new credit once half of it is used, if that needs no waiting; else the next call does it.
    fn top_up(&mut self) {
        if self.link.credit() > self.prefetch / 2 {
            return;
        }
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
        failure.error
    }

    fn convert(&self, message: Incoming) -> Result<ReceivedEvent, Failure> {
        event_parts(message)
            .map(ReceivedEvent::new)
            .map_err(|error| {
                Failure::of_link(
                    TransportError::new(
                        TransportErrorKind::UndecodableMessage,
                        self.doing.as_str(),
                    )
                    .with_source(error),
                )
            })
    }

    /// Waits for the next message, reminding the service of the credit now and then.
    async fn next(&mut self) -> Result<Incoming, Failure> {
        loop {
            match timeout(REMIND_AFTER, self.link.recv::<Body<Value>>()).await {
                Ok(Ok(delivery)) => return Ok(delivery.into_message()),
                Ok(Err(error)) => return Err(failure::receive(&self.doing, error)),
                Err(_) => {
                    let deadline = self.credit_deadline();
                    self.tell_credit(&deadline).await?;
                }
            }
        }
    }

    fn credit_deadline(&self) -> Deadline {
        Deadline::new(
            tokio::time::Instant::now() + self.close_timeout,
            &self.closed,
        )
    }

    /// The next message, if it is here already. After some hundred in a row the runtime says no to give other
    /// tasks their turn (tokio's budget), which ends a batch early and loses nothing.
    fn ready(&mut self) -> Option<Result<Incoming, RecvError>> {
        let delivery = self.link.recv::<Body<Value>>().now_or_never()?;
        Some(delivery.map(fe2o3_amqp::Delivery::into_message))
    }
}

#[async_trait]
impl PartitionReceiver for AmqpReceiver {
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.is_done {
            return Err(TransportError::new(
                TransportErrorKind::LinkDetached,
                format!("{}: the receiver is done", self.doing),
            ));
        }
        if self.owes_credit {
            let deadline = self.credit_deadline();
            if let Err(failure) = self.tell_credit(&deadline).await {
                return Err(self.fail(failure));
            }
        }
        // CANCEL: every await is above this line or waits for the first message; from there to the return
        // nothing waits, so a dropped call has taken nothing out of the queue.
        let first = match self.next().await.and_then(|message| self.convert(message)) {
            Ok(event) => event,
            Err(failure) => return Err(self.fail(failure)),
        };
        let mut events = vec![first];
        while events.len() < max {
            let next = match self.ready() {
                None => break,
                Some(Ok(message)) => self.convert(message),
                Some(Err(error)) => Err(failure::receive(&self.doing, error)),
            };
            match next {
                Ok(event) => events.push(event),
                // Somebody else reads the partition: what came before is theirs, too.
                Err(failure) if failure.error.is_ownership_lost() => {
                    return Err(self.fail(failure));
                }
                // What came before it is good; the caller learns of the failure next time.
                Err(failure) => {
                    self.failed = Some(self.fail(failure));
                    return Ok(events);
                }
            }
        }
        self.top_up();
        Ok(events)
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
