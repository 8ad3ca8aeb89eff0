//! Frames of a peer that move messages and credit.

use bytes::Bytes;

use super::{Session, SessionResult};
use crate::amqp::codec::incoming::{Disposition, Flow, Transfer};
use crate::amqp::codec::outgoing::{self, Outcome};
use crate::amqp::connection::Core;
use crate::amqp::errors::{AmqpError, condition};
use crate::amqp::fault_kinds::ReplyFault;
use crate::amqp::fault_rules::Effect;
use crate::amqp::limits::INCOMING_WINDOW;
use crate::amqp::link::{Arrived, LinkKind, Node};
use crate::amqp::publisher::publish_disturbed;
use crate::amqp::request::{Request, reply_fault, shorten};
use crate::amqp::signal::LinkKey;
use crate::amqp::{cbs, management};

impl Session {
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
        link.last_traffic = core.now;
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
        link.last_traffic = core.now;
        let (incoming, is_withheld) = match &mut link.kind {
            LinkKind::Requests { incoming, .. } => (incoming, false),
            LinkKind::Publisher { target, incoming } => {
                let (hub, partition) = target.place();
                let faults = &core.service.faults;
                let is_withheld = faults.strikes(hub, partition, &Effect::WithholdCredit);
                (incoming, is_withheld)
            }
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
                let is_low = !is_withheld && incoming.refill();
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
            LinkKind::Publisher { target, .. } => match publish_disturbed(core, target, arrived) {
                Some(outcome) => outcome,
                None => return,
            },
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
        let fault = reply_fault(core, node, &request);
        let mut reply = match (&fault, node) {
            (Some(ReplyFault::Status { status }), _) => cbs::answer_with(*status),
            (_, Node::Cbs) => cbs::answer(&request, &core.service, &mut core.grants),
            (_, Node::Management) => management::answer(&request, &core.service, &core.grants),
        };
        if node == Node::Management {
            shorten(core, &request, &mut reply);
        }
        let Some(handle) = self.reply_link(node, request.reply_to.as_deref()) else {
            tracing::warn!(
                connection = core.id,
                ?node,
                "no link for the reply to a request"
            );
            return Outcome::Accepted;
        };
        let Some(link) = self.links.get(&handle) else {
            return Outcome::Accepted;
        };
        let key = LinkKey {
            channel: self.channel,
            handle,
            serial: link.serial,
        };
        match fault {
            Some(ReplyFault::Lost {}) => {}
            Some(ReplyFault::Late { delay }) => {
                core.late.push(core.now + delay, key, request.reply(&reply));
            }
            Some(ReplyFault::WrongCorrelation {}) => {
                self.reply(core, key, request.astray().reply(&reply));
            }
            Some(ReplyFault::Status { .. }) | None => {
                self.reply(core, key, request.reply(&reply));
            }
        }
        Outcome::Accepted
    }

    /// Puts a reply in line on its link, if that is still there.
    pub(crate) fn reply(&mut self, core: &mut Core, key: LinkKey, reply: Bytes) {
        let channel = self.channel;
        let Some(link) = self.link_mut(key) else {
            return;
        };
        if let LinkKind::Replies(replies) = &mut link.kind
            && !replies.push(reply)
        {
            let error = AmqpError::new(
                condition::RESOURCE_LIMIT,
                "too many replies wait for credit",
            );
            self.detach_link(core, key.handle, &error);
            return;
        }
        core.make_ready(channel, key.handle, link);
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
    pub(crate) fn on_disposition(&self, core: &mut Core, disposition: &Disposition) {
        if disposition.is_receiver && !disposition.settled {
            let d = disposition;
            core.output.write(|buf| {
                outgoing::settle_back(buf, self.channel, d.first, d.last, d.raw_state.as_deref());
            });
        }
    }
}
