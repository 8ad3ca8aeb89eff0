//! What a session sends on its own: deliveries and flows.

use tokio::time::Instant;

use super::Session;
use crate::amqp::codec::outgoing::{self, LinkFlow, SessionFlow};
use crate::amqp::connection::Core;
use crate::amqp::consumer::Pumped;
use crate::amqp::delivery::{Delivery, Route, Windows};
use crate::amqp::limits::INCOMING_WINDOW;
use crate::amqp::link::{LinkKind, Replies};
use crate::amqp::signal::LinkKey;

impl Session {
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
        let waiting = core.output.len();
        let (pumped, credit) = match &mut link.kind {
            LinkKind::Consumer(consumer) => {
                route.settled = consumer.settled;
                let pumped = consumer.pump(
                    &mut self.windows,
                    route,
                    &core.service.faults,
                    &mut core.output,
                    core.now,
                );
                (pumped, &mut consumer.credit)
            }
            LinkKind::Replies(replies) => {
                route.settled = replies.settled;
                let pumped = replies.pump(&mut self.windows, route, core);
                (pumped, &mut replies.credit)
            }
            _ => return Pumped::Idle,
        };
        if core.output.len() > waiting {
            link.last_traffic = Instant::now();
        }
        if pumped == Pumped::Idle && credit.drain {
            credit.drain_rest();
            self.send_flow(core, key.handle, true);
        }
        pumped
    }

    pub(super) fn send_link_flow(&mut self, core: &mut Core, handle: u32) {
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

    pub(super) fn send_session_flow(&mut self, core: &mut Core) {
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
