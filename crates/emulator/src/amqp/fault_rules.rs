//! Faults that wait for something to happen.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::errors::{AmqpError, disabled};
use super::fault_kinds::{ReplyFault, ResetStage, TlsFault};
use crate::broker::lock;
use crate::dice::Dice;

/// Rules the protocol asks at each step that can be disturbed. A new fault is an [`Effect`], a
/// question at its step, and a method of [`Faults`](crate::Faults).
#[derive(Debug, Default)]
pub(crate) struct FaultRules {
    /// Whether there is any rule: without one, a step costs one load.
    is_armed: AtomicBool,
    inner: Mutex<Inner>,
}

/// What a fault does at its step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    AbortDelivery,
    DisableHub,
    DisturbTls(TlsFault),
    DuplicateDelivery,
    FewerPartitions(u32),
    /// Messages of WebSockets, in frames of so many bytes.
    FragmentMessages(usize),
    IgnoreAttach,
    IgnoreDetach,
    InflateDelivery(usize),
    InterleaveDeliveries,
    LoseDisposition,
    OverSend(u32),
    RefuseAttach(AmqpError),
    RefuseUpgrade(u16),
    RejectMessage(AmqpError),
    ReorderDeliveries,
    RepeatDeliveryId,
    ReplyCbs(ReplyFault),
    ReplyManagement(ReplyFault),
    ResetAfterBytes(usize),
    ResetAfterStore,
    ResetAt(ResetStage),
    SkipDelivery,
    WithholdCredit,
    WithholdDeliveries,
}

impl Effect {
    /// The name on the control port.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AbortDelivery => "abort_deliveries",
            Self::DisableHub => "disable_hub",
            Self::DisturbTls(_) => "disturb_tls",
            Self::DuplicateDelivery => "duplicate_deliveries",
            Self::FewerPartitions(_) => "fewer_partitions",
            Self::FragmentMessages(_) => "fragment_web_sockets",
            Self::IgnoreAttach => "ignore_attaches",
            Self::IgnoreDetach => "ignore_detaches",
            Self::InflateDelivery(_) => "inflate_deliveries",
            Self::InterleaveDeliveries => "interleave_deliveries",
            Self::LoseDisposition => "lose_dispositions",
            Self::OverSend(_) => "over_send",
            Self::RefuseAttach(_) => "refuse_attaches",
            Self::RefuseUpgrade(_) => "refuse_upgrades",
            Self::RejectMessage(_) => "reject_messages",
            Self::ReorderDeliveries => "reorder_deliveries",
            Self::RepeatDeliveryId => "repeat_delivery_ids",
            Self::ReplyCbs(_) => "cbs_replies",
            Self::ReplyManagement(_) => "management_replies",
            Self::ResetAfterBytes(_) => "reset_after_bytes",
            Self::ResetAfterStore => "reset_after_store",
            Self::ResetAt(_) => "reset_at",
            Self::SkipDelivery => "skip_deliveries",
            Self::WithholdCredit => "withhold_credit",
            Self::WithholdDeliveries => "withhold_deliveries",
        }
    }
}

/// What a step, or the scope of a rule, is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) hub: Option<String>,
    pub(crate) partition: Option<String>,
}

impl Scope {
    pub(crate) fn of(hub: &str, partition: Option<&str>) -> Self {
        Self {
            hub: Some(hub.to_owned()),
            partition: partition.map(str::to_owned),
        }
    }

    pub(crate) fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// What a rule for a partition, or for all of the event hub, covers.
    pub(crate) fn covers(&self, hub: Option<&str>, partition: Option<&str>) -> bool {
        let is_hub = |name: &String| hub.is_some_and(|hub| hub.eq_ignore_ascii_case(name));
        let is_partition = |id: &String| partition == Some(id.as_str());
        self.hub.as_ref().is_none_or(is_hub) && self.partition.as_ref().is_none_or(is_partition)
    }
}

/// How often a rule acts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Frequency {
    /// Without a number it acts until it is cleared.
    pub(crate) times: Option<u32>,
    /// It acts on this share of its occasions, and on all of them without.
    pub(crate) chance: Option<f64>,
}

#[derive(Debug)]
struct Rule {
    effect: Effect,
    scope: Scope,
    frequency: Frequency,
    hits: u64,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<Rule>,
    counts: BTreeMap<&'static str, u64>,
    dice: Dice,
}

/// A rule that waits or lasts, as the control port shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ActiveFault {
    fault: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chance: Option<f64>,
    hits: u64,
}

impl FaultRules {
    pub(crate) fn add(&self, effect: Effect, scope: Scope, frequency: Frequency) {
        if frequency.times == Some(0) {
            return;
        }
        lock(&self.inner).rules.push(Rule {
            effect,
            scope,
            frequency,
            hits: 0,
        });
        self.is_armed.store(true, Ordering::Release);
    }

    /// Switches a lasting fault of a place on, once, or off.
    pub(crate) fn switch(&self, effect: &Effect, scope: Scope, is_on: bool) {
        lock(&self.inner).rules.retain(|rule| {
            let is_same = rule.effect == *effect && rule.scope == scope;
            !is_same || rule.frequency.times.is_some()
        });
        if is_on {
            self.add(effect.clone(), scope, Frequency::default());
        }
    }

    /// Chance starts anew from this number.
    pub(crate) fn seed(&self, seed: u64) {
        lock(&self.inner).dice = Dice::from_seed(seed);
    }

    /// Forgets all rules; what was counted stays.
    pub(crate) fn clear(&self) {
        lock(&self.inner).rules.clear();
        self.is_armed.store(false, Ordering::Release);
    }

    /// Counts a fault that takes effect at once.
    pub(crate) fn note(&self, name: &'static str) {
        *lock(&self.inner).counts.entry(name).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.inner).counts.clone()
    }

    pub(crate) fn active(&self) -> Vec<ActiveFault> {
        let inner = lock(&self.inner);
        let active = inner.rules.iter().map(|rule| ActiveFault {
            fault: rule.effect.name(),
            hub: rule.scope.hub.clone(),
            partition: rule.scope.partition.clone(),
            left: rule.frequency.times,
            chance: rule.frequency.chance,
            hits: rule.hits,
        });
        active.collect()
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.is_armed.load(Ordering::Acquire)
    }

    /// Asks at a step that is about an event hub or a partition: the first rule that `pick` takes
    /// and that covers the place acts, which uses up one of its turns.
    pub(crate) fn take<T>(
        &self,
        hub: Option<&str>,
        partition: Option<&str>,
        pick: impl Fn(&Effect) -> Option<T>,
    ) -> Option<T> {
        if !self.is_armed() {
            return None;
        }
        let mut inner = lock(&self.inner);
        let Inner {
            rules,
            counts,
            dice,
        } = &mut *inner;
        for (index, rule) in rules.iter_mut().enumerate() {
            if !rule.scope.covers(hub, partition) {
                continue;
            }
            let Some(picked) = pick(&rule.effect) else {
                continue;
            };
            if rule
                .frequency
                .chance
                .is_some_and(|chance| !dice.falls(chance))
            {
                continue;
            }
            rule.hits += 1;
            *counts.entry(rule.effect.name()).or_default() += 1;
            if let Some(left) = &mut rule.frequency.times {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    rules.remove(index);
                }
            }
            return Some(picked);
        }
        None
    }

    /// Whether a rule with this effect acts now.
    pub(crate) fn strikes(
        &self,
        hub: Option<&str>,
        partition: Option<&str>,
        effect: &Effect,
    ) -> bool {
        self.take(hub, partition, |other| (other == effect).then_some(()))
            .is_some()
    }

    /// The error for an attach to a partition (or to the hub as a whole), if it is to fail.
    pub(crate) fn on_attach(&self, hub: &str, partition: Option<&str>) -> Option<AmqpError> {
        self.take(Some(hub), partition, |effect| match effect {
            Effect::RefuseAttach(error) => Some(error.clone()),
            Effect::DisableHub => Some(disabled(hub)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(times: u32) -> Frequency {
        Frequency {
            times: Some(times),
            chance: None,
        }
    }

    fn scope(hub: &str, partition: Option<&str>) -> Scope {
        Scope::of(hub, partition)
    }

    #[test]
    fn a_rule_acts_on_its_place_as_often_as_it_says() {
        let rules = FaultRules::default();
        rules.add(Effect::SkipDelivery, scope("Hub", Some("1")), times(2));
        let strikes = |hub, id| rules.strikes(Some(hub), Some(id), &Effect::SkipDelivery);
        assert!(!strikes("hub", "0") && !strikes("other", "1"));
        assert!(strikes("hub", "1") && strikes("HUB", "1") && !strikes("hub", "1"));
        assert_eq!(rules.counts()["skip_deliveries"], 2);
        assert!(rules.active().is_empty());
    }

    #[test]
    fn a_rule_for_all_partitions_covers_the_hub_itself() {
        assert!(scope("hub", None).covers(Some("hub"), None));
        assert!(!scope("hub", Some("0")).covers(Some("hub"), None));
        assert!(Scope::default().covers(None, None));
    }

    #[test]
    fn a_seed_repeats_chance() {
        let run = |seed| {
            let rules = FaultRules::default();
            rules.seed(seed);
            let frequency = Frequency {
                times: None,
                chance: Some(0.5),
            };
            rules.add(Effect::SkipDelivery, Scope::default(), frequency);
            (0..64)
                .map(|_| rules.strikes(None, None, &Effect::SkipDelivery))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let hits = run(7).into_iter().filter(|hit| *hit).count();
        assert!((16..48).contains(&hits), "{hits}");
    }

    #[test]
    fn switches_are_on_once() {
        let rules = FaultRules::default();
        rules.switch(&Effect::IgnoreAttach, Scope::default(), true);
        rules.switch(&Effect::IgnoreAttach, Scope::default(), true);
        assert_eq!(rules.active().len(), 1);
        rules.switch(&Effect::IgnoreAttach, Scope::default(), false);
        assert!(!rules.strikes(None, None, &Effect::IgnoreAttach));
    }
}
