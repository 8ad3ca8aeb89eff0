//! The protocol of one connection, without its socket.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::codec::frame::{FrameError, FrameType, HEARTBEAT, next_frame};
use super::codec::incoming::{self, Begin, Open, Performative};
use super::codec::{DecodeError, outgoing};
use super::consumer::Pumped;
use super::errors::{AmqpError, condition, unauthorized};
use super::limits;
use super::link::{Link, LinkKind};
use super::output::Output;
use super::sas::Grants;
use super::service::Service;
use super::session::Session;
use super::settlement::Settlements;
use super::signal::{LinkKey, Signal};
use crate::broker::now_ms;

const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// INTEROP: .NET takes only MSSBCBS, all others ANONYMOUS.
const MECHANISMS: [&str; 4] = ["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"];
const SASL_OK: u8 = 0;
const SASL_AUTH: u8 = 1;
/// How often tokens are looked at, if they are checked at all.
const GRANT_CHECK: Duration = Duration::from_secs(1);

/// What a peer did that ends its connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a protocol header that is not AMQP 1.0")]
    Header,
    #[error("no mechanism of that name")]
    Mechanism,
    #[error("no open within {0:?}")]
    OpenTimeout(Duration),
    #[error("a channel number above {max}", max = limits::CHANNEL_MAX)]
    Channel,
    #[error("unexpected here: {0}")]
    Unexpected(&'static str),
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Sasl,
    HeaderAfterSasl,
    AwaitOpen,
    Open,
    /// We have said close; the peer gets until then to do the same.
    Closing {
        until: Instant,
    },
    Closed,
}

/// What sessions and links need of their connection.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) service: Arc<Service>,
    pub(crate) signals: UnboundedSender<Signal>,
    pub(crate) output: Output,
    pub(crate) grants: Grants,
    pub(crate) max_frame: usize,
    pub(crate) settlements: Settlements,
    pub(crate) now: Instant,
    ready: VecDeque<LinkKey>,
    last_serial: u64,
}

impl Core {
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// Puts a sending link in line, once.
    pub(crate) fn make_ready(&mut self, channel: u16, handle: u32, link: &mut Link) {
        let sends = matches!(link.kind, LinkKind::Consumer(_) | LinkKind::Replies(_));
        if sends && !link.is_ready {
            link.is_ready = true;
            self.ready.push_back(LinkKey {
                channel,
                handle,
                serial: link.serial,
            });
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    core: Core,
    phase: Phase,
    sessions: HashMap<u16, Session>,
    open_deadline: Instant,
    heartbeat_every: Duration,
    last_written: Instant,
    next_grant_check: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(
        id: u64,
        service: Arc<Service>,
        signals: UnboundedSender<Signal>,
        now: Instant,
    ) -> Self {
        let next_grant_check = service.keys.is_checking().then_some(now + GRANT_CHECK);
        Self {
            core: Core {
                id,
                service,
                signals,
                output: Output::default(),
                grants: Grants::default(),
                max_frame: limits::MIN_MAX_FRAME as usize,
                settlements: Settlements::default(),
                now,
                ready: VecDeque::new(),
                last_serial: 0,
            },
            phase: Phase::Header,
            sessions: HashMap::new(),
            open_deadline: now + limits::OPEN_DEADLINE,
            heartbeat_every: limits::HEARTBEAT,
            last_written: now,
            next_grant_check,
        }
    }

    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.core.output
    }

    pub(crate) fn has_output(&self) -> bool {
        self.core.output.len() > 0
    }

    /// A peer that does not take its replies gets no more requests read.
    pub(crate) fn wants_input(&self) -> bool {
        self.core.output.len() < limits::OUTPUT_HIGH_WATER && self.phase != Phase::Closed
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.phase == Phase::Closed && !self.has_output()
    }

    pub(crate) fn note_written(&mut self, now: Instant) {
        self.last_written = now;
    }

    /// When `on_timer` wants to be called.
    pub(crate) fn deadline(&self) -> Instant {
        let base = match self.phase {
            Phase::Closing { until } => return until,
            Phase::Open | Phase::Closed => self.last_written + self.heartbeat_every,
            _ => self.open_deadline,
        };
        let others = [self.core.settlements.next_due(), self.next_grant_check];
        others.into_iter().flatten().fold(base, Instant::min)
    }

    pub(crate) fn on_timer(&mut self, now: Instant) {
        self.core.now = now;
        match self.phase {
            Phase::Closing { until } if until <= now => self.phase = Phase::Closed,
            Phase::Closing { .. } | Phase::Closed => {}
            Phase::Open => {
                self.core.settlements.flush(now, &mut self.core.output);
                if self.last_written + self.heartbeat_every <= now {
                    self.last_written = now;
                    self.core
                        .output
                        .write(|buf| buf.extend_from_slice(&HEARTBEAT));
                }
                self.check_grants(now);
            }
            _ if self.open_deadline <= now => {
                self.fail(&Violation::OpenTimeout(limits::OPEN_DEADLINE));
            }
            _ => {}
        }
    }

    /// Takes what the socket has read so far; an incomplete frame stays in `buf`.
    pub(crate) fn on_bytes(&mut self, buf: &mut BytesMut, now: Instant) {
        self.core.now = now;
        loop {
            match self.step(buf) {
                Ok(true) => {}
                Ok(false) => break,
                Err(violation) => {
                    self.fail(&violation);
                    buf.clear();
                    break;
                }
            }
        }
    }

    pub(crate) fn on_signal(&mut self, signal: Signal, now: Instant) {
        self.core.now = now;
        let core = &mut self.core;
        match signal {
            Signal::Ready(handle) => {
                handle.taken_from_queue();
                let key = handle.key;
                if let Some(link) = self
                    .sessions
                    .get_mut(&key.channel)
                    .and_then(|session| session.link_mut(key))
                {
                    core.make_ready(key.channel, key.handle, link);
                }
            }
            Signal::Detach(key, error) => {
                if let Some(session) = self.sessions.get_mut(&key.channel) {
                    session.detach_key(core, key, &error);
                }
            }
            Signal::DetachReceivers {
                hub,
                partition,
                error,
            } => {
                for session in self.sessions.values_mut() {
                    session.detach_receivers(core, &hub, partition.as_deref(), &error);
                }
            }
            Signal::EndSessions(error) => {
                for session in self.sessions.values_mut().filter(|s| !s.is_ended()) {
                    session.end(core, Some(&error));
                }
            }
            Signal::Close(error) => self.close(Some(&error)),
            Signal::Cut => self.phase = Phase::Closed,
        }
    }

    /// Lets links send until the output is full or none has anything to send.
    pub(crate) fn pump(&mut self) {
        while self.core.output.len() < limits::OUTPUT_HIGH_WATER
            && let Some(key) = self.core.ready.pop_front()
        {
            let Some(session) = self.sessions.get_mut(&key.channel) else {
                continue;
            };
            if session.pump(&mut self.core, key) == Pumped::More
                && let Some(link) = session.link_mut(key)
            {
                self.core.make_ready(key.channel, key.handle, link);
            }
        }
    }

    fn step(&mut self, buf: &mut BytesMut) -> Result<bool, Violation> {
        let limit = match self.phase {
            Phase::Header | Phase::HeaderAfterSasl => return self.on_header(buf),
            Phase::Open => limits::MAX_FRAME,
            Phase::Closed => {
                buf.clear();
                return Ok(false);
            }
            Phase::Closing { .. } => limits::MAX_FRAME,
            Phase::Sasl | Phase::AwaitOpen => limits::MAX_FRAME_BEFORE_OPEN,
        };
        let Some(frame) = next_frame(buf, limit)? else {
            return Ok(false);
        };
        match (self.phase, frame.frame_type) {
            (Phase::Sasl, FrameType::Sasl) => self.on_sasl(&incoming::sasl_init(&frame.body)?)?,
            (Phase::Sasl, FrameType::Amqp) => return Err(Violation::Unexpected("an AMQP frame")),
            (_, FrameType::Sasl) => return Err(Violation::Unexpected("a SASL frame")),
            // An empty frame is a heartbeat.
            (_, FrameType::Amqp) if frame.body.is_empty() => {}
            (_, FrameType::Amqp) => {
                self.on_performative(frame.channel, incoming::performative(&frame.body)?)?;
            }
        }
        Ok(true)
    }

    /// INTEROP: JS with a ready-made signature leaves the SASL layer out.
    fn on_header(&mut self, buf: &mut BytesMut) -> Result<bool, Violation> {
        let Some(&header) = buf.first_chunk::<8>() else {
            return Ok(false);
        };
        buf.advance(header.len());
        if header == AMQP_HEADER {
            self.core
                .output
                .write(|out| out.extend_from_slice(&AMQP_HEADER));
            self.phase = Phase::AwaitOpen;
        } else if header == SASL_HEADER && self.phase == Phase::Header {
            self.core.output.write(|out| {
                out.extend_from_slice(&SASL_HEADER);
                outgoing::sasl_mechanisms(out, &MECHANISMS);
            });
            self.phase = Phase::Sasl;
        } else {
            // PROTOCOL: the answer to an unknown header is the one we know (AMQP 2.2).
            self.core
                .output
                .write(|out| out.extend_from_slice(&SASL_HEADER));
            return Err(Violation::Header);
        }
        Ok(true)
    }

    fn on_sasl(&mut self, mechanism: &str) -> Result<(), Violation> {
        let is_known = MECHANISMS.contains(&mechanism);
        let outcome = if is_known { SASL_OK } else { SASL_AUTH };
        self.core
            .output
            .write(|out| outgoing::sasl_outcome(out, outcome));
        if !is_known {
            return Err(Violation::Mechanism);
        }
        self.phase = Phase::HeaderAfterSasl;
        Ok(())
    }

    fn on_performative(&mut self, channel: u16, frame: Performative) -> Result<(), Violation> {
        match (self.phase, frame) {
            (Phase::AwaitOpen, Performative::Open(open)) => {
                self.on_open(&open);
                return Ok(());
            }
            (Phase::Closing { .. }, Performative::Close) => {
                self.phase = Phase::Closed;
                return Ok(());
            }
            (Phase::Closing { .. } | Phase::Closed, _) => return Ok(()),
            (Phase::Open, Performative::Close) => {
                self.close(None);
                self.phase = Phase::Closed;
                return Ok(());
            }
            (Phase::Open, Performative::Begin(begin)) => return self.on_begin(channel, &begin),
            (Phase::Open, Performative::Open(_)) => {
                return Err(Violation::Unexpected("a second open"));
            }
            (Phase::Open, frame) => self.on_session_frame(channel, frame),
            _ => Err(Violation::Unexpected("a frame before open")),
        }
    }

    fn on_open(&mut self, open: &Open) {
        let peer_frame = open.max_frame_size.unwrap_or(u32::MAX);
        self.core.max_frame = peer_frame.clamp(limits::MIN_MAX_FRAME, limits::MAX_FRAME) as usize;
        if let Some(millis) = open.idle_timeout_ms {
            let half = Duration::from_millis(u64::from(millis) / 2);
            // A peer that asks for a frame every few milliseconds gets one every 10.
            self.heartbeat_every = half.clamp(Duration::from_millis(10), limits::HEARTBEAT);
        }
        tracing::debug!(
            connection = self.core.id,
            container = open.container_id,
            "open"
        );
        let container = format!("eventhubs-emulator-{}", self.core.id);
        let hostname = open.hostname.as_deref();
        self.core
            .output
            .write(|buf| outgoing::open(buf, &container, hostname));
        self.phase = Phase::Open;
    }

    fn on_begin(&mut self, channel: u16, begin: &Begin) -> Result<(), Violation> {
        if channel > limits::CHANNEL_MAX {
            return Err(Violation::Channel);
        }
        if self
            .sessions
            .get(&channel)
            .is_some_and(|session| !session.is_ended())
        {
            return Err(Violation::Unexpected("a begin on a channel in use"));
        }
        let session = Session::new(channel, begin);
        self.core
            .output
            .write(|buf| outgoing::begin(buf, channel, super::session::FIRST_OUTGOING_ID));
        self.sessions.insert(channel, session);
        Ok(())
    }

    fn on_session_frame(&mut self, channel: u16, frame: Performative) -> Result<(), Violation> {
        let core = &mut self.core;
        let Some(session) = self.sessions.get_mut(&channel) else {
            return match frame {
                Performative::Attach(_) | Performative::Transfer(_) => {
                    Err(Violation::Unexpected("an attach or transfer without begin"))
                }
                // INTEROP: Python still sends flows and detaches after its end.
                _ => Ok(()),
            };
        };
        if let Performative::End = frame {
            if !session.is_ended() {
                session.end(core, None);
            }
            self.sessions.remove(&channel);
            return Ok(());
        }
        if session.is_ended() {
            return Ok(());
        }
        let result = match frame {
            Performative::Attach(attach) => session.on_attach(core, &attach),
            Performative::Transfer(transfer) => session.on_transfer(core, transfer),
            Performative::Flow(flow) => {
                session.on_flow(core, &flow);
                Ok(())
            }
            Performative::Disposition(disposition) => {
                session.on_disposition(core, &disposition);
                Ok(())
            }
            Performative::Detach(detach) => {
                session.on_detach(core, &detach);
                Ok(())
            }
            Performative::Open(_)
            | Performative::Begin(_)
            | Performative::End
            | Performative::Close => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(connection = core.id, channel, %error, "ending the session");
            session.end(core, Some(&error));
        }
        Ok(())
    }

    /// Detaches what is no longer covered by a token.
    fn check_grants(&mut self, now: Instant) {
        let Some(due) = self.next_grant_check else {
            return;
        };
        if due > now {
            return;
        }
        self.next_grant_check = Some(now + GRANT_CHECK);
        let error = unauthorized("Listen", "$cbs");
        for session in self.sessions.values_mut() {
            session.detach_unauthorized(&mut self.core, now_ms() / 1000, &error);
        }
    }

    fn fail(&mut self, violation: &Violation) {
        tracing::warn!(
            connection = self.core.id,
            ?violation,
            "closing a bad peer: {violation}"
        );
        let condition = match violation {
            Violation::Decode(_) => condition::DECODE,
            Violation::Frame(_) | Violation::Header => condition::FRAMING,
            _ => condition::NOT_ALLOWED,
        };
        self.close(Some(&AmqpError::new(condition, violation.to_string())));
    }

    /// Says close if there is a connection to close, and frees all links at once.
    fn close(&mut self, error: Option<&AmqpError>) {
        match self.phase {
            Phase::Open => {
                self.core.settlements.flush_all(&mut self.core.output);
                self.core.output.write(|buf| outgoing::close(buf, error));
                self.phase = Phase::Closing {
                    until: self.core.now + limits::CLOSE_GRACE,
                };
            }
            Phase::Closing { .. } | Phase::Closed => {}
            _ => self.phase = Phase::Closed,
        }
        self.sessions.clear();
    }
}
