//! The protocol of one connection, without its socket.

mod frames;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use self::violation::Violation;
use super::cbs::Seats;
use super::codec::frame::HEARTBEAT;
use super::codec::outgoing;
use super::consumer::Pumped;
use super::errors::{AmqpError, condition, tracking, unauthorized};
use super::fault_kinds::ResetStage;
use super::fault_rules::Effect;
use super::late::LateReplies;
use super::limits;
use super::link::{Link, LinkKind};
use super::output::Output;
use super::sas::{Grants, now_s};
use super::service::Service;
use super::session::Session;
use super::settlement::Settlements;
use super::signal::{EventLinks, LinkKey, Signal};

/// How often tokens are looked at, if they are checked at all.
const GRANT_CHECK: Duration = Duration::from_secs(1);

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
    pub(crate) cbs_seats: Seats,
    pub(crate) max_frame: usize,
    pub(crate) settlements: Settlements,
    pub(crate) now: Instant,
    /// A fault has ended the connection without a word.
    pub(crate) is_cut: bool,
    /// The output answers a detach.
    pub(crate) has_detached: bool,
    /// Replies a fault holds back.
    pub(crate) late: LateReplies,
    ready: VecDeque<LinkKey>,
    /// Links that wait for the allowance of their event hub.
    throttled: Vec<(Instant, LinkKey)>,
    last_serial: u64,
}

impl Core {
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// Has a link wait, once.
    fn throttle(&mut self, until: Instant, key: LinkKey) {
        if self.throttled.iter().all(|(_, waiting)| *waiting != key) {
            self.throttled.push((until, key));
        }
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
    next_idle_check: Option<Instant>,
    last_with_links: Instant,
}

impl Connection {
    pub(crate) fn new(
        id: u64,
        service: Arc<Service>,
        signals: UnboundedSender<Signal>,
        now: Instant,
    ) -> Self {
        let next_idle_check = service.ends_idle.then_some(now + limits::IDLE_CHECK);
        let next_grant_check = (service.keys.is_checking() && !service.broker.clock().is_driven())
            .then_some(now + GRANT_CHECK);
        Self {
            core: Core {
                id,
                service,
                signals,
                output: Output::default(),
                grants: Grants::default(),
                cbs_seats: Seats::default(),
                max_frame: limits::MIN_MAX_FRAME as usize,
                settlements: Settlements::default(),
                is_cut: false,
                has_detached: false,
                late: LateReplies::default(),
                now,
                ready: VecDeque::new(),
                throttled: Vec::new(),
                last_serial: 0,
            },
            phase: Phase::Header,
            sessions: HashMap::new(),
            open_deadline: now + limits::OPEN_DEADLINE,
            heartbeat_every: limits::HEARTBEAT,
            last_written: now,
            next_idle_check,
            last_with_links: now,
            next_grant_check,
        }
    }

    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.core.output
    }

    pub(crate) fn has_output(&self) -> bool {
        self.core.output.len() > 0
    }

    /// How long the output waits before it leaves.
    pub(crate) fn output_delay(&mut self) -> Duration {
        self.core.has_detached &= self.has_output();
        match self.core.has_detached {
            true => limits::DETACH_DELAY,
            false => Duration::ZERO,
        }
    }

    /// A peer that does not take its replies gets no more requests read.
    pub(crate) fn wants_input(&self) -> bool {
        self.core.output.len() < limits::OUTPUT_HIGH_WATER && self.phase != Phase::Closed
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.phase == Phase::Closed && !self.has_output()
    }

    /// Whether a fault wants it gone at once.
    pub(crate) fn is_cut(&self) -> bool {
        self.core.is_cut
    }

    /// After how many more bytes of output a fault wants it gone.
    pub(crate) fn reset_after(&self) -> Option<usize> {
        self.core
            .service
            .faults
            .take(None, None, |effect| match effect {
                Effect::ResetAfterBytes(count) => Some(*count),
                _ => None,
            })
    }

    /// Ends without a word if a fault is set for this step.
    fn reset_at(&mut self, stage: ResetStage, hub: Option<&str>, partition: Option<&str>) -> bool {
        let effect = Effect::ResetAt(stage);
        self.core.is_cut |= self.core.service.faults.strikes(hub, partition, &effect);
        self.core.is_cut
    }

    pub(crate) fn note_written(&mut self, now: Instant) {
        self.core.now = now;
        self.last_written = now;
    }

    /// When `on_timer` wants to be called.
    ///
    /// Where a test drives the clock, time jumps to the next timer while a socket is slow; there
    /// only what ends soon in any case has a timer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_driven = self.core.service.broker.clock().is_driven();
        let base = match self.phase {
            Phase::Closing { until } => return Some(until),
            // Only the last bytes are still to go, and the driver has a limit for that.
            Phase::Closed => return None,
            _ if is_driven => None,
            Phase::Open => Some(self.last_written + self.heartbeat_every),
            _ => Some(self.open_deadline),
        };
        let others = [
            self.core.settlements.next_due(),
            self.core.late.next_due(),
            self.next_grant_check,
            self.next_idle_check,
            self.core.throttled.iter().map(|(until, _)| *until).min(),
        ];
        others.into_iter().chain([base]).flatten().min()
    }

    /// How long the peer may take no byte while some wait for it.
    pub(crate) fn write_stall(&self) -> Option<Duration> {
        let is_driven = self.core.service.broker.clock().is_driven();
        (!is_driven).then_some(limits::WRITE_STALL)
    }

    pub(crate) fn on_timer(&mut self, now: Instant) {
        self.core.now = now;
        match self.phase {
            Phase::Closing { until } if until <= now => self.phase = Phase::Closed,
            Phase::Closing { .. } | Phase::Closed => {}
            Phase::Open => {
                self.core.settlements.flush(now, &mut self.core.output);
                self.release_throttled(now);
                if self.last_written + self.heartbeat_every <= now {
                    self.last_written = now;
                    self.core
                        .output
                        .write(|buf| buf.extend_from_slice(&HEARTBEAT));
                }
                self.check_grants(now);
                self.send_late_replies(now);
                self.end_idle(now);
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
        while !self.core.is_cut {
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
            Signal::DetachLinks {
                scope,
                links,
                error,
            } => {
                for session in self.sessions.values_mut() {
                    session.detach_links(core, &scope, links, &error);
                }
            }
            Signal::ExpireTokens(scope) => {
                core.grants = Grants::default();
                let error = unauthorized("Listen", "$cbs");
                for session in self.sessions.values_mut() {
                    session.detach_links(core, &scope, EventLinks::Both, &error);
                }
            }
            Signal::BadFrame(frame) if self.phase == Phase::Open => {
                core.output
                    .write(|buf| buf.extend_from_slice(frame.bytes()));
            }
            Signal::BadFrame(_) => {}
            Signal::EndSessions(scope, error) => {
                let is_meant =
                    |s: &&mut Session| !s.is_ended() && (scope.is_everything() || s.is_at(&scope));
                for session in self.sessions.values_mut().filter(is_meant) {
                    session.end(core, Some(&error));
                }
            }
            Signal::Close(error) => self.close(Some(&error)),
            Signal::Cut => core.is_cut = true,
            Signal::At(scope, signal) => {
                if self.sessions.values().any(|session| session.is_at(&scope)) {
                    self.on_signal(*signal, now);
                }
            }
            Signal::Resume => {
                for session in self.sessions.values_mut() {
                    session.resume(core);
                }
            }
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
            match session.pump(&mut self.core, key) {
                Pumped::More => {
                    if let Some(link) = session.link_mut(key) {
                        self.core.make_ready(key.channel, key.handle, link);
                    }
                }
                Pumped::Throttled(until) => self.core.throttle(until, key),
                Pumped::Idle | Pumped::NoWindow => {}
            }
        }
    }

    /// Puts links in line again whose event hub may give more.
    fn release_throttled(&mut self, now: Instant) {
        let core = &mut self.core;
        let (due, later) = std::mem::take(&mut core.throttled)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        core.throttled = later;
        let due: Vec<(Instant, LinkKey)> = due;
        for (_, key) in due {
            if let Some(session) = self.sessions.get_mut(&key.channel)
                && let Some(link) = session.link_mut(key)
            {
                core.make_ready(key.channel, key.handle, link);
            }
        }
    }

    /// Ends what nobody uses.
    fn end_idle(&mut self, now: Instant) {
        if self.next_idle_check.is_none_or(|due| due > now) {
            return;
        }
        self.next_idle_check = Some(now + limits::IDLE_CHECK);
        if self.sessions.values().any(Session::has_links) {
            self.last_with_links = now;
        }
        for session in self.sessions.values_mut() {
            session.detach_idle(&mut self.core);
        }
        if self.last_with_links + limits::CONNECTION_IDLE <= now {
            let text = format!(
                "The connection was inactive for more than the allowed {} milliseconds and is \
                 closed by container 'LinkTracker'. {}",
                limits::CONNECTION_IDLE.as_millis(),
                tracking("connection")
            );
            self.close(Some(&AmqpError::new(condition::CONNECTION_FORCED, text)));
        }
    }

    fn send_late_replies(&mut self, now: Instant) {
        while let Some((key, reply)) = self.core.late.take_due(now) {
            if let Some(session) = self.sessions.get_mut(&key.channel) {
                session.reply(&mut self.core, key, reply);
            }
        }
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
            session.detach_unauthorized(&mut self.core, now_s(), &error);
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
