//! One session: windows, links, and what each frame does to them.

use std::collections::HashMap;

use super::attach;
use super::codec::incoming::{Attach, Begin, Detach, Disposition, Flow, Transfer};
use super::codec::outgoing::{self, AttachAnswer, LinkFlow, Outcome, SessionFlow};
use super::connection::Core;
use super::consumer::Pumped;
use super::delivery::{Delivery, Route, Windows};
use super::errors::{AmqpError, condition};
use super::limits::{INCOMING_WINDOW, MAX_LINK_NAME, MAX_LINKS_PER_SESSION, MAX_MESSAGE};
use super::link::{Arrived, Link, LinkKind, Node, Replies};
use super::publisher::publish;
use super::request::Request;
use super::signal::LinkKey;
use super::{cbs, management};
use crate::broker::lock;

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
        let (kind, resource) = if lock(&core.service.faults).ignore_attaches {
            (LinkKind::Unanswered, None)
        } else {
            match attach::decide(attach, key, core) {
                Ok(accepted) => {
                    let answer = AttachAnswer {
                        snd_settle_mode: accepted.snd_settle_mode,
                        max_message_size: MAX_MESSAGE as u64,
                        offered_capabilities: offered(attach),
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
            kind,
        };
        self.links.insert(attach.handle, link);
        // INTEROP: JS sends nothing before a flow has told it the session's window.
        if !attach.is_receiver {
            self.send_link_flow(core, attach.handle);
        }
        Ok(())
    }

    pub(crate) fn on_flow(&mut self, core: &mut Core, flow: &Flow) {
        let had_window = self.windows.remote_left > 0;
        self.windows
            .update_remote(flow.next_incoming_id, flow.incoming_window);
        if !had_window && self.windows.remote_left > 0 {
            for (&handle, link) in &mut self.links {
                core.make_ready(self.channel, handle, link);
            }
        }
        let Some(handle) = flow.handle else {
            if flow.echo {
                self.send_session_flow(core);
            }
            return;
        };
        let Some(link) = self.links.get_mut(&handle) else {
            return;
        };
        let credit = match &mut link.kind {
            LinkKind::Consumer(consumer) => &mut consumer.credit,
            LinkKind::Replies(replies) => &mut replies.credit,
            // INTEROP: Python sends flows on its own sender links.
            LinkKind::Requests { .. } | LinkKind::Publisher { .. } => {
                if flow.echo {
                    self.send_link_flow(core, handle);
                }
                return;
            }
            LinkKind::Detached | LinkKind::Unanswered => return,
        };
        credit.update(
            flow.delivery_count,
            flow.link_credit.unwrap_or(0),
            flow.drain,
        );
        core.make_ready(self.channel, handle, link);
        if flow.echo {
            self.send_link_flow(core, handle);
        }
    }

    pub(crate) fn on_transfer(&mut self, core: &mut Core, transfer: Transfer) -> SessionResult {
        self.windows.incoming_left =
            self.windows.incoming_left.checked_sub(1).ok_or_else(|| {
                AmqpError::new(
                    condition::WINDOW_VIOLATION,
                    "more transfers than the window allows",
                )
            })?;
        self.windows.next_incoming_id = self.windows.next_incoming_id.wrapping_add(1);
        let handle = transfer.handle;
        let link = self.links.get_mut(&handle).ok_or_else(|| {
            AmqpError::new(
                condition::UNATTACHED_HANDLE,
                "a transfer on a handle without a link",
            )
        })?;
        let incoming = match &mut link.kind {
            LinkKind::Requests { incoming, .. } | LinkKind::Publisher { incoming, .. } => incoming,
            LinkKind::Detached | LinkKind::Unanswered => return Ok(()),
            LinkKind::Consumer(_) | LinkKind::Replies(_) => {
                return Err(AmqpError::new(
                    condition::NOT_ALLOWED,
                    "a transfer from a receiver",
                ));
            }
        };
        match incoming.take(transfer) {
            Ok(None) => {}
            Ok(Some(arrived)) => {
                let is_low = !lock(&core.service.faults).withhold_credit && incoming.refill();
                self.on_message(core, handle, &arrived);
                if is_low {
                    self.send_link_flow(core, handle);
                }
            }
            Err(error) => self.detach_link(core, handle, &error),
        }
        if self.windows.incoming_left <= INCOMING_WINDOW / 2 {
            self.send_session_flow(core);
        }
        Ok(())
    }

    fn on_message(&mut self, core: &mut Core, handle: u32, arrived: &Arrived) {
        let Some(link) = self.links.get(&handle) else {
            return;
        };
        let outcome = match &link.kind {
            LinkKind::Publisher { target, .. } => publish(target, arrived),
            LinkKind::Requests { node, .. } => self.on_request(core, *node, arrived),
            _ => return,
        };
        if !arrived.is_settled {
            core.settlements
                .push(core.now, self.channel, arrived.delivery_id, outcome);
        } else if let Outcome::Rejected(error) = outcome {
            tracing::warn!(connection = core.id, %error, "settled message dropped");
        }
    }

    fn on_request(&mut self, core: &mut Core, node: Node, arrived: &Arrived) -> Outcome {
        let request = match arrived.bytes.as_ref().map(Request::parse) {
            Some(Ok(request)) => request,
            Some(Err(error)) => {
                return Outcome::Rejected(AmqpError::new(condition::DECODE, error.to_string()));
            }
            None => {
                return Outcome::Rejected(AmqpError::new(condition::MESSAGE_SIZE, "too large"));
            }
        };
        let reply = match node {
            Node::Cbs => cbs::answer(&request, &core.service, &mut core.grants),
            Node::Management => management::answer(&request, &core.service, &core.grants),
        };
        let Some(handle) = self.reply_link(node, request.reply_to.as_deref()) else {
            tracing::warn!(
                connection = core.id,
                ?node,
                "no link for the reply to a request"
            );
            return Outcome::Accepted;
        };
        let Some(link) = self.links.get_mut(&handle) else {
            return Outcome::Accepted;
        };
        if let LinkKind::Replies(replies) = &mut link.kind
            && !replies.push(request.reply(&reply))
        {
            let error = AmqpError::new(
                condition::RESOURCE_LIMIT,
                "too many replies wait for credit",
            );
            self.detach_link(core, handle, &error);
            return Outcome::Accepted;
        }
        core.make_ready(self.channel, handle, link);
        Outcome::Accepted
    }

    /// The link a reply goes to: of the same node, by preference the one the request names.
    ///
    /// INTEROP: Python names none; JS names the link, others its target.
    fn reply_link(&self, node: Node, reply_to: Option<&str>) -> Option<u32> {
        let mut of_node = None;
        for (&handle, link) in &self.links {
            if let LinkKind::Replies(replies) = &link.kind
                && replies.node == node
            {
                let is_named = reply_to
                    .is_some_and(|to| replies.target.as_deref() == Some(to) || link.name == to);
                if is_named {
                    return Some(handle);
                }
                of_node = Some(handle);
            }
        }
        of_node
    }

    /// PROTOCOL: a receiver in mode "second" (Java) waits until its disposition is settled by us.
    /// What it says makes no difference here: events stay in the log.
    pub(crate) fn on_disposition(&mut self, core: &mut Core, disposition: &Disposition) {
        if disposition.is_receiver && !disposition.settled {
            let d = disposition;
            core.output.write(|buf| {
                outgoing::settle_back(buf, self.channel, d.first, d.last, d.raw_state.as_deref());
            });
        }
    }

    pub(crate) fn on_detach(&mut self, core: &mut Core, detach: &Detach) {
        let Some(link) = self.links.remove(&detach.handle) else {
            return;
        };
        if !matches!(link.kind, LinkKind::Detached) {
            core.settlements.flush_all(&mut core.output);
            core.output.write(|buf| {
                outgoing::detach(buf, self.channel, detach.handle, detach.closed, None);
            });
        }
    }

    /// Detaches the link if it is still the one that is meant.
    pub(crate) fn detach_key(&mut self, core: &mut Core, key: LinkKey, error: &AmqpError) {
        if self
            .links
            .get(&key.handle)
            .is_some_and(|link| link.serial == key.serial)
        {
            self.detach_link(core, key.handle, error);
        }
    }

    /// Detaches the receivers of a partition, or of all partitions of a hub.
    pub(crate) fn detach_receivers(
        &mut self,
        core: &mut Core,
        hub: &str,
        partition: Option<&str>,
        error: &AmqpError,
    ) {
        self.detach_where(core, error, |link| match &link.kind {
            LinkKind::Consumer(consumer) => {
                let place = &consumer.subscription;
                place.hub().name().eq_ignore_ascii_case(hub)
                    && partition.is_none_or(|id| place.partition().id() == id)
            }
            _ => false,
        });
    }

    /// Detaches event links whose token has ended.
    pub(crate) fn detach_unauthorized(&mut self, core: &mut Core, now_s: i64, error: &AmqpError) {
        let grants = std::mem::take(&mut core.grants);
        self.detach_where(core, error, |link| {
            link.resource
                .as_deref()
                .is_some_and(|resource| !grants.covers(resource, now_s))
        });
        core.grants = grants;
    }

    fn detach_where(&mut self, core: &mut Core, error: &AmqpError, which: impl Fn(&Link) -> bool) {
        let mut handles: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, link)| which(link))
            .map(|(handle, _)| *handle)
            .collect();
        handles.sort_unstable();
        for handle in handles {
            self.detach_link(core, handle, error);
        }
    }

    fn detach_link(&mut self, core: &mut Core, handle: u32, error: &AmqpError) {
        let Some(link) = self.links.get_mut(&handle) else {
            return;
        };
        if matches!(link.kind, LinkKind::Detached) {
            return;
        }
        tracing::info!(connection = core.id, link = link.name, %error, "detaching");
        link.kind = LinkKind::Detached;
        link.resource = None;
        core.settlements.flush_all(&mut core.output);
        core.output
            .write(|buf| outgoing::detach(buf, self.channel, handle, true, Some(error)));
    }

    /// A receiver that was woken by the broker or put itself in line.
    pub(crate) fn link_mut(&mut self, key: LinkKey) -> Option<&mut Link> {
        self.links
            .get_mut(&key.handle)
            .filter(|link| link.serial == key.serial)
    }

    /// Lets a link send what it may.
    pub(crate) fn pump(&mut self, core: &mut Core, key: LinkKey) -> Pumped {
        let mut route = Route {
            channel: self.channel,
            handle: key.handle,
            settled: false,
            max_frame: core.max_frame,
        };
        let Some(link) = self
            .links
            .get_mut(&key.handle)
            .filter(|l| l.serial == key.serial)
        else {
            return Pumped::Idle;
        };
        link.is_ready = false;
        let (pumped, credit) = match &mut link.kind {
            LinkKind::Consumer(consumer) => {
                route.settled = consumer.settled;
                let pumped = consumer.pump(&mut self.windows, route, &mut core.output);
                (pumped, &mut consumer.credit)
            }
            LinkKind::Replies(replies) => {
                route.settled = replies.settled;
                let pumped = replies.pump(&mut self.windows, route, core);
                (pumped, &mut replies.credit)
            }
            _ => return Pumped::Idle,
        };
        if pumped == Pumped::Idle && credit.drain {
            credit.drain_rest();
            self.send_flow(core, key.handle, true);
        }
        pumped
    }

    fn send_link_flow(&mut self, core: &mut Core, handle: u32) {
        self.send_flow(core, handle, false);
    }

    fn send_flow(&mut self, core: &mut Core, handle: u32, drain: bool) {
        let Some(link) = self.links.get(&handle) else {
            return;
        };
        let (delivery_count, link_credit) = match &link.kind {
            LinkKind::Requests { incoming, .. } | LinkKind::Publisher { incoming, .. } => {
                (incoming.delivery_count, incoming.credit_left)
            }
            LinkKind::Consumer(consumer) => (consumer.credit.delivery_count, consumer.credit.left),
            LinkKind::Replies(replies) => (replies.credit.delivery_count, replies.credit.left),
            LinkKind::Detached | LinkKind::Unanswered => return,
        };
        let link = LinkFlow {
            handle,
            delivery_count,
            link_credit,
            drain,
        };
        let session = self.session_flow();
        core.output
            .write(|buf| outgoing::flow(buf, self.channel, session, Some(link)));
    }

    fn send_session_flow(&mut self, core: &mut Core) {
        let session = self.session_flow();
        core.output
            .write(|buf| outgoing::flow(buf, self.channel, session, None));
    }

    /// Every flow opens the incoming window again: transfers are taken as fast as they come.
    fn session_flow(&mut self) -> SessionFlow {
        self.windows.incoming_left = INCOMING_WINDOW;
        SessionFlow {
            next_incoming_id: self.windows.next_incoming_id,
            incoming_window: INCOMING_WINDOW,
            next_outgoing_id: self.windows.next_outgoing_id,
            outgoing_window: INCOMING_WINDOW,
        }
    }
}

impl Replies {
    fn pump(&mut self, windows: &mut Windows, route: Route, core: &mut Core) -> Pumped {
        loop {
            if let Some(unsent) = &mut self.unsent {
                if !unsent.send(windows, route, &mut core.output) {
                    return Pumped::NoWindow;
                }
                self.unsent = None;
            }
            // INTEROP: Java gives one credit per request, so a reply may have to wait.
            if self.credit.left == 0 {
                return Pumped::Idle;
            }
            let Some(reply) = self.queue.pop_front() else {
                return Pumped::Idle;
            };
            self.credit.use_one();
            let parts = [reply, Default::default(), Default::default()];
            self.unsent = Some(Delivery::start(windows, parts));
        }
    }
}

fn offered(attach: &Attach) -> &'static [&'static str] {
    let wants_metrics = attach.is_receiver
        && attach
            .desired_capabilities
            .iter()
            .any(|c| c == attach::RUNTIME_METRIC);
    if wants_metrics {
        &[attach::RUNTIME_METRIC]
    } else {
        &[]
    }
}
