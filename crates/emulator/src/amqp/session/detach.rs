//! The end of links, from either side.

use super::Session;
use crate::amqp::codec::incoming::Detach;
use crate::amqp::codec::outgoing;
use crate::amqp::connection::Core;
use crate::amqp::errors::{AmqpError, condition};
use crate::amqp::fault_rules::{Effect, Scope};
use crate::amqp::limits::LINK_IDLE;
use crate::amqp::link::{Link, LinkKind};
use crate::amqp::signal::{EventLinks, LinkKey};

impl Session {
    pub(crate) fn on_detach(&mut self, core: &mut Core, detach: &Detach) {
        let Some(link) = self.links.remove(&detach.handle) else {
            return;
        };
        let (hub, partition) = link.kind.place();
        let faults = &core.service.faults;
        if faults.strikes(hub, partition, &Effect::IgnoreDetach) {
            return;
        }
        if !matches!(link.kind, LinkKind::Detached) {
            core.settlements.flush_all(&mut core.output);
            core.has_detached = true;
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

    /// Detaches event links of a partition, of all partitions of a hub, or of everything.
    pub(crate) fn detach_links(
        &mut self,
        core: &mut Core,
        scope: &Scope,
        links: EventLinks,
        error: &AmqpError,
    ) {
        self.detach_where(core, error, |link| match &link.kind {
            LinkKind::Consumer(consumer) if links != EventLinks::Senders => {
                let place = &consumer.subscription;
                scope.covers(Some(place.hub().name()), Some(place.partition().id()))
            }
            LinkKind::Publisher { target, .. } if links != EventLinks::Receivers => {
                scope.covers(Some(target.hub.name()), target.partition.as_deref())
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

    /// Detaches event links without traffic for too long.
    pub(crate) fn detach_idle(&mut self, core: &mut Core) {
        let now = core.now;
        let is_idle = |link: &&Link| link.last_traffic + LINK_IDLE <= now;
        let idle: Vec<(u32, AmqpError)> = self
            .links
            .iter()
            .filter(|(_, link)| is_idle(link))
            .filter_map(|(handle, link)| {
                let (code, timer) = match &link.kind {
                    LinkKind::Consumer(_) => ("consumer", "AmqpEventHubConsumer"),
                    LinkKind::Publisher { .. } => ("publisher", "AmqpEventHubPublisher"),
                    _ => return None,
                };
                let name = &link.name;
                let text = format!(
                    "The link '{name}' is force detached. Code: {code}({name}). Details: \
                     {timer}.IdleTimerExpired: Idle timeout: 00:30:00."
                );
                Some((*handle, AmqpError::new(condition::DETACH_FORCED, text)))
            })
            .collect();
        for (handle, error) in idle {
            self.detach_link(core, handle, &error);
        }
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

    pub(super) fn detach_link(&mut self, core: &mut Core, handle: u32, error: &AmqpError) {
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
}
