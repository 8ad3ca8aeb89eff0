//! One session: windows, links, and what each frame does to them.

mod detach;
mod inbound;
mod outbound;

use std::collections::HashMap;

use super::attach;
use super::codec::incoming::{Attach, Begin};
use super::codec::outgoing::{self, AttachAnswer};
use super::connection::Core;
use super::delivery::Windows;
use super::errors::{AmqpError, condition};
use super::fault_rules::{Effect, Scope};
use super::limits::{INCOMING_WINDOW, MAX_LINK_NAME, MAX_LINKS_PER_SESSION, MAX_MESSAGE};
use super::link::{Link, LinkKind};
use super::signal::LinkKey;

/// PROTOCOL: what the service starts with.
pub(crate) const FIRST_OUTGOING_ID: u32 = 1;

#[derive(Debug)]
pub(crate) struct Session {
    channel: u16,
    windows: Windows,
    links: HashMap<u32, Link>,
    /// We have ended it; the peer's end is still to come.
    is_ended: bool,
}

/// An error that ends the session.
type SessionResult = Result<(), AmqpError>;

impl Session {
    pub(crate) fn new(channel: u16, begin: &Begin) -> Self {
        let windows = Windows {
            next_incoming_id: begin.next_outgoing_id,
            incoming_left: INCOMING_WINDOW,
            next_outgoing_id: FIRST_OUTGOING_ID,
            remote_left: begin.incoming_window,
            next_delivery_id: 0,
        };
        Self {
            channel,
            windows,
            links: HashMap::new(),
            is_ended: false,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Ends the session from our side. Its links, and their places at partitions, are gone at once.
    pub(crate) fn end(&mut self, core: &mut Core, error: Option<&AmqpError>) {
        core.settlements.flush_all(&mut core.output);
        core.output
            .write(|buf| outgoing::end(buf, self.channel, error));
        self.links.clear();
        self.is_ended = true;
    }

    pub(crate) fn on_attach(&mut self, core: &mut Core, attach: &Attach) -> SessionResult {
        if attach.name.len() > MAX_LINK_NAME {
            return Err(AmqpError::new(
                condition::NOT_ALLOWED,
                "the link name is too long",
            ));
        }
        match self.links.get(&attach.handle).map(|link| &link.kind) {
            None if self.links.len() >= MAX_LINKS_PER_SESSION => {
                return Err(AmqpError::new(condition::RESOURCE_LIMIT, "too many links"));
            }
            None | Some(LinkKind::Detached) => {}
            Some(_) => {
                return Err(AmqpError::new(
                    condition::HANDLE_IN_USE,
                    "the handle is in use",
                ));
            }
        }
        let serial = core.next_serial();
        let key = LinkKey {
            channel: self.channel,
            handle: attach.handle,
            serial,
        };
        let (hub, partition) = attach::place(attach);
        let (hub, partition) = (hub.as_deref(), partition.as_deref());
        let faults = &core.service.faults;
        let (kind, resource) = if faults.strikes(hub, partition, &Effect::IgnoreAttach) {
            (LinkKind::Unanswered, None)
        } else {
            match attach::decide(attach, key, core) {
                Ok(accepted) => {
                    let is_geo_replicated = core.service.broker.is_geo_replicated();
                    let offered = attach::offered(attach, is_geo_replicated);
                    let answer = AttachAnswer {
                        snd_settle_mode: accepted.snd_settle_mode,
                        max_message_size: MAX_MESSAGE as u64,
                        offered_capabilities: &offered,
                    };
                    core.output
                        .write(|buf| outgoing::attach(buf, self.channel, attach, answer));
                    (accepted.kind, accepted.resource)
                }
                Err(error) => {
                    tracing::info!(connection = core.id, link = attach.name, %error, "attach refused");
                    core.output.write(|buf| {
                        outgoing::refusing_attach(buf, self.channel, attach);
                        outgoing::detach(buf, self.channel, attach.handle, true, Some(&error));
                    });
                    (LinkKind::Detached, None)
                }
            }
        };
        let link = Link {
            serial,
            name: attach.name.clone(),
            resource,
            is_ready: false,
            last_traffic: core.now,
            kind,
        };
        self.links.insert(attach.handle, link);
        // INTEROP: JS sends nothing before a flow has told it the session's window.
        if !attach.is_receiver {
            self.send_link_flow(core, attach.handle);
        }
        Ok(())
    }

    /// Whether any link is up.
    pub(crate) fn has_links(&self) -> bool {
        let is_up = |link: &Link| !matches!(link.kind, LinkKind::Detached);
        self.links.values().any(is_up)
    }

    /// The event hub and the partition of a link, for the scopes of faults.
    pub(crate) fn place(&self, handle: u32) -> (Option<&str>, Option<&str>) {
        self.links
            .get(&handle)
            .map_or((None, None), |link| link.kind.place())
    }

    /// Whether it has an event link at a place.
    pub(crate) fn is_at(&self, scope: &Scope) -> bool {
        self.links.values().any(|link| {
            let (hub, partition) = link.kind.place();
            hub.is_some() && scope.covers(hub, partition)
        })
    }

    /// Puts all links in line.
    pub(crate) fn resume(&mut self, core: &mut Core) {
        for (&handle, link) in &mut self.links {
            core.make_ready(self.channel, handle, link);
        }
    }

    /// A receiver that was woken by the broker or put itself in line.
    pub(crate) fn link_mut(&mut self, key: LinkKey) -> Option<&mut Link> {
        self.links
            .get_mut(&key.handle)
            .filter(|link| link.serial == key.serial)
    }
}
