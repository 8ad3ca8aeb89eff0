//! From bytes to frames to sessions.

use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::violation::Violation;
use super::{Connection, Phase};
use crate::amqp::attach;
use crate::amqp::codec::frame::{FrameType, next_frame};
use crate::amqp::codec::incoming::{self, Begin, Open, Performative};
use crate::amqp::codec::outgoing;
use crate::amqp::fault_kinds::ResetStage;
use crate::amqp::limits;
use crate::amqp::session::{FIRST_OUTGOING_ID, Session};

const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// INTEROP: .NET takes only MSSBCBS, all others ANONYMOUS.
const MECHANISMS: [&str; 4] = ["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"];
const SASL_OK: u8 = 0;
const SASL_AUTH: u8 = 1;

impl Connection {
    pub(super) fn step(&mut self, buf: &mut BytesMut) -> Result<bool, Violation> {
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
        if self.reset_at(ResetStage::Header, None, None) {
            return Ok(false);
        }
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
        if self.reset_at(ResetStage::Sasl, None, None) {
            return Ok(());
        }
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
        if self.is_reset_by(channel, &frame) {
            return Ok(());
        }
        match (self.phase, frame) {
            (Phase::AwaitOpen, Performative::Open(open)) => self.on_open(&open),
            (Phase::Closing { .. }, Performative::Close) => self.phase = Phase::Closed,
            (Phase::Closing { .. } | Phase::Closed, _) => {}
            (Phase::Open, Performative::Close) => {
                self.close(None);
                self.phase = Phase::Closed;
            }
            (Phase::Open, Performative::Begin(begin)) => self.on_begin(channel, &begin)?,
            (Phase::Open, Performative::Open(_)) => {
                return Err(Violation::Unexpected("a second open"));
            }
            (Phase::Open, frame) => self.on_session_frame(channel, frame)?,
            _ => return Err(Violation::Unexpected("a frame before open")),
        }
        Ok(())
    }

    fn is_reset_by(&mut self, channel: u16, frame: &Performative) -> bool {
        if !self.core.service.faults.is_armed() {
            return false;
        }
        let place = |handle: u32| {
            let session = self.sessions.get(&channel)?;
            let (hub, partition) = session.place(handle);
            Some((hub.map(str::to_owned), partition.map(str::to_owned)))
        };
        let (stage, place) = match frame {
            Performative::Attach(attach) => (ResetStage::Attach, Some(attach::place(attach))),
            Performative::Begin(_) => (ResetStage::Begin, None),
            Performative::Close => (ResetStage::Close, None),
            Performative::Detach(detach) => (ResetStage::Detach, place(detach.handle)),
            Performative::Disposition(_) => (ResetStage::Disposition, None),
            Performative::End => (ResetStage::End, None),
            Performative::Flow(flow) => (ResetStage::Flow, flow.handle.and_then(place)),
            Performative::Open(_) => (ResetStage::Open, None),
            Performative::Transfer(transfer) => (ResetStage::Transfer, place(transfer.handle)),
        };
        let (hub, partition) = place.unwrap_or_default();
        self.reset_at(stage, hub.as_deref(), partition.as_deref())
    }

    fn on_open(&mut self, open: &Open) {
        let peer_frame = open.max_frame_size.unwrap_or(u32::MAX);
        self.core.max_frame = peer_frame.clamp(limits::MIN_MAX_FRAME, limits::MAX_FRAME) as usize;
        if let Some(millis) = open.idle_timeout_ms {
            let half = Duration::from_millis(u64::from(millis) / 2);
            // A peer that asks for a frame every few milliseconds gets one every 10.
            self.heartbeat_every = half.clamp(Duration::from_millis(10), limits::HEARTBEAT);
        }
        self.core
            .service
            .introduce(self.core.id, &open.container_id);
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
            .write(|buf| outgoing::begin(buf, channel, FIRST_OUTGOING_ID));
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
}
