//! Faults a test can order, and the two places of the request path where they take effect.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use crate::dice::Dice;

use super::{
    errors::ErrorCode,
    request::{Operation, Target},
    response::Reply,
};

/// Which requests a fault concerns; the default is all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultScope {
    /// Only this operation.
    pub(crate) operation: Option<Operation>,
    /// Only blobs whose name (for listings: whose prefix) contains this.
    pub(crate) name_contains: Option<String>,
    /// Not the first so many of them.
    pub(crate) after: u32,
    /// Only this share of them.
    pub(crate) chance: Option<f64>,
}

impl FaultScope {
    fn covers(&self, target: &Target) -> bool {
        let name = match target.operation {
            Operation::ListBlobs => target.query("prefix").unwrap_or_default(),
            _ => target.blob(),
        };
        self.operation.is_none_or(|only| only == target.operation)
            && self
                .name_contains
                .as_ref()
                .is_none_or(|text| name.contains(text))
    }
}

/// A refusal that a fault sends in place of the operation.
#[derive(Clone, Debug)]
pub(crate) struct FaultReply {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// The error code, as `ServerBusy`.
    pub(crate) code: String,
    /// The value of `Retry-After`, in seconds on the wire.
    pub(crate) retry_after: Option<Duration>,
}

impl FaultReply {
    /// Turns the service's internal error into this refusal.
    pub(crate) fn disguise(&self, mut reply: Reply) -> Reply {
        reply.status = self.status;
        reply.set("x-ms-error-code", &self.code);
        if let Ok(text) = std::str::from_utf8(&reply.body) {
            let code = ErrorCode::InternalError.as_str();
            reply.body = text.replace(code, &self.code).into();
        }
        if let Some(after) = self.retry_after {
            reply.set(RETRY_AFTER, &after.as_secs().to_string());
        }
        reply
    }
}

/// What a fault does.
#[derive(Clone, Debug)]
pub(crate) enum FaultEffect {
    /// Lets the operation take effect twice, as a repetition on the way does; the second reply is
    /// sent.
    ApplyTwice,
    /// Waits before the operation takes effect, which it does also when the client has given up.
    Delay(Duration),
    /// Closes the connection before the operation takes effect.
    DropRequest,
    /// Lets the operation take effect, then closes the connection without a reply.
    DropReply,
    /// Sets a header of the reply, or takes it away.
    EditHeader(HeaderName, Option<HeaderValue>),
    /// Sends half of the reply's body and then nothing, with the connection open until the faults
    /// are cleared: a client that went away is not always noticed while a body is under way.
    HangBody,
    /// Shows other times of the last change, or none, in headers and listings.
    LastModified(LastModified),
    /// Refuses the request; nothing takes effect.
    Refuse(FaultReply),
    /// Sends another body than the reply's own: so often the same.
    ReplaceBody { part: Bytes, count: usize },
    /// Sends half of the reply's body and closes the connection.
    TruncateBody,
}

/// What replies say of the time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastModified {
    /// Nothing.
    Missing,
    /// A time so many seconds later, or earlier.
    Moved(i64),
}

/// How the body of a reply ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// As it should.
    #[default]
    Whole,
    /// Half of it comes, and the connection stays open.
    Hangs,
    /// Half of it comes, and the connection closes.
    Truncated,
}

#[derive(Debug)]
struct Rule {
    scope: FaultScope,
    effect: FaultEffect,
    /// How many requests it still meets; `None` is every one until cleared.
    left: Option<u32>,
    hits: u64,
}

impl FaultEffect {
    /// The name on the control port.
    fn name(&self) -> &'static str {
        match self {
            Self::ApplyTwice => "apply_twice",
            Self::Delay(_) => "delay",
            Self::DropReply => "drop_reply_after_apply",
            Self::DropRequest => "drop_request",
            Self::EditHeader(..) => "edit_header",
            Self::HangBody => "hang_body",
            Self::LastModified(_) => "last_modified",
            Self::Refuse(_) => "fail",
            Self::ReplaceBody { .. } => "replace_body",
            Self::TruncateBody => "truncate_body",
        }
    }
}

/// A fault that waits or lasts, as the control port shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ActiveBlobFault {
    fault: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_contains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u32>,
    hits: u64,
}

impl ActiveBlobFault {
    fn switch(fault: &'static str) -> Self {
        Self {
            fault,
            operation: None,
            name_contains: None,
            left: None,
            hits: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    frozen: watch::Sender<bool>,
    /// Changes when all faults are forgotten.
    cleared: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    outage: bool,
    stale_listings: bool,
    date_skew: (Duration, bool),
    dice: Dice,
    counts: BTreeMap<&'static str, u64>,
}

impl State {
    /// Counts a lasting fault that is switched on.
    fn switch(&mut self, name: &'static str, is_on: bool) -> &mut Self {
        if is_on {
            *self.counts.entry(name).or_default() += 1;
        }
        self
    }
}

/// What to do with one request.
#[derive(Debug, Default)]
pub(crate) struct FaultPlan {
    pub(crate) delay: Duration,
    pub(crate) apply_twice: bool,
    pub(crate) last_modified: Option<LastModified>,
    pub(crate) drop_request: bool,
    pub(crate) drop_reply: bool,
    pub(crate) body_end: BodyEnd,
    pub(crate) body: Option<Bytes>,
    pub(crate) headers: Vec<(HeaderName, Option<HeaderValue>)>,
    pub(crate) refusal: Option<FaultReply>,
}

/// A handle on the faults of one endpoint; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlobFaults(Arc<Inner>);

impl BlobFaults {
    /// Adds a fault for the next `times` requests in `scope` (`None`: for all until cleared).
    pub(crate) fn add(&self, scope: FaultScope, effect: FaultEffect, times: Option<u32>) {
        let rule = Rule {
            scope,
            effect,
            left: times,
            hits: 0,
        };
        self.lock().rules.push(rule);
    }

    /// Refuses the next `times` requests.
    #[cfg(test)]
    pub(crate) fn fail_next(
        &self,
        times: u32,
        status: StatusCode,
        code: &str,
        retry_after: Option<Duration>,
    ) {
        let reply = FaultReply {
            status,
            code: code.to_owned(),
            retry_after,
        };
        let effect = FaultEffect::Refuse(reply);
        self.add(FaultScope::default(), effect, Some(times));
    }

    /// Applies the next `times` requests but closes the connection in place of the reply.
    #[cfg(test)]
    pub(crate) fn drop_reply_after_apply(&self, times: u32) {
        self.add(FaultScope::default(), FaultEffect::DropReply, Some(times));
    }

    /// Closes every connection without a reply while `on`.
    pub(crate) fn outage(&self, on: bool) {
        self.lock().switch("outage", on).outage = on;
    }

    /// Holds every request while `on`; those that wait take effect afterwards, also those whose
    /// clients have given up.
    pub(crate) fn freeze(&self, on: bool) {
        self.lock().switch("freeze", on);
        self.0.frozen.send_replace(on);
    }

    /// Waits until the endpoint is not frozen.
    pub(crate) async fn thawed(&self) {
        // An error means that the sender is gone, and `self` holds it.
        let _ = self.0.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// Waits until all faults are forgotten, from now on.
    pub(crate) fn cleared(&self) -> impl Future<Output = ()> + use<> {
        let mut cleared = self.0.cleared.subscribe();
        // An error means that the endpoint is gone.
        async move { drop(cleared.changed().await) }
    }

    /// While `on`, listings show the state of the moment this was switched on.
    pub(crate) fn stale_listings(&self, on: bool) {
        self.lock().switch("stale_listings", on).stale_listings = on;
    }

    /// Moves the `Date` header of replies; `Last-Modified` stays.
    pub(crate) fn skew_date(&self, by: Duration, into_the_past: bool) {
        let is_on = !by.is_zero();
        self.lock().switch("skew_date", is_on).date_skew = (by, into_the_past);
    }

    /// Chance starts anew from this number.
    pub(crate) fn seed(&self, seed: u64) {
        self.lock().dice = Dice::from_seed(seed);
    }

    /// Forgets all faults.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let counts = std::mem::take(&mut state.counts);
        let dice = std::mem::take(&mut state.dice);
        *state = State {
            counts,
            dice,
            ..State::default()
        };
        drop(state);
        self.freeze(false);
        self.0.cleared.send_replace(());
    }

    /// Takes the faults that meet this request, using up one turn of each.
    pub(crate) fn plan(&self, target: &Target) -> FaultPlan {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut plan = FaultPlan {
            drop_request: state.outage,
            ..FaultPlan::default()
        };
        for rule in &mut state.rules {
            if rule.left == Some(0) || !rule.scope.covers(target) {
                continue;
            }
            if rule.scope.after > 0 {
                rule.scope.after -= 1;
                continue;
            }
            let chance = rule.scope.chance;
            if chance.is_some_and(|chance| !state.dice.falls(chance)) {
                continue;
            }
            // One refusal for each request, so that two orders of `fail_next` add up.
            if plan.refusal.is_some() && matches!(rule.effect, FaultEffect::Refuse(_)) {
                continue;
            }
            if let Some(left) = &mut rule.left {
                *left -= 1;
            }
            rule.hits += 1;
            *state.counts.entry(rule.effect.name()).or_default() += 1;
            match &rule.effect {
                FaultEffect::ApplyTwice => plan.apply_twice = true,
                FaultEffect::LastModified(how) => plan.last_modified = Some(*how),
                FaultEffect::Delay(delay) => plan.delay = plan.delay.saturating_add(*delay),
                FaultEffect::DropReply => plan.drop_reply = true,
                FaultEffect::DropRequest => plan.drop_request = true,
                FaultEffect::EditHeader(name, value) => {
                    plan.headers.push((name.clone(), value.clone()));
                }
                FaultEffect::HangBody => plan.body_end = BodyEnd::Hangs,
                FaultEffect::Refuse(reply) => plan.refusal = Some(reply.clone()),
                FaultEffect::ReplaceBody { part, count } => {
                    plan.body = Some(part.repeat(*count).into());
                }
                FaultEffect::TruncateBody => plan.body_end = BodyEnd::Truncated,
            }
        }
        state.rules.retain(|rule| rule.left != Some(0));
        plan
    }

    /// How often each fault has acted; what was cleared included.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    /// What waits or lasts.
    pub(crate) fn active(&self) -> Vec<ActiveBlobFault> {
        let is_frozen = *self.0.frozen.borrow();
        let state = self.lock();
        let rules = state.rules.iter().map(|rule| ActiveBlobFault {
            operation: rule.scope.operation,
            name_contains: rule.scope.name_contains.clone(),
            left: rule.left,
            hits: rule.hits,
            ..ActiveBlobFault::switch(rule.effect.name())
        });
        let switches = [
            (is_frozen, "freeze"),
            (state.outage, "outage"),
            (state.stale_listings, "stale_listings"),
            (!state.date_skew.0.is_zero(), "skew_date"),
        ];
        let on = switches.into_iter().filter(|(is_on, _)| *is_on);
        rules
            .chain(on.map(|(_, name)| ActiveBlobFault::switch(name)))
            .collect()
    }

    /// Whether listings show the past.
    pub(crate) fn has_stale_listings(&self) -> bool {
        self.lock().stale_listings
    }

    /// How far `Date` is off, and whether it lies in the past.
    pub(crate) fn date_skew(&self) -> (Duration, bool) {
        self.lock().date_skew
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave the state half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
