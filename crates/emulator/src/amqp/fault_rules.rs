//! Faults that wait for something to happen.

use super::errors::AmqpError;

/// Rules the protocol asks at each step that can be disturbed. A new fault is a field here, a
/// question at its step, and a method of [`Faults`](crate::Faults).
#[derive(Debug, Default)]
pub(crate) struct FaultRules {
    refusals: Vec<Refuse>,
    cbs_answers: Vec<Counted<i32>>,
    pub(crate) ignore_attaches: bool,
    pub(crate) withhold_credit: bool,
}

#[derive(Debug)]
struct Refuse {
    hub: String,
    partition: Option<String>,
    error: Counted<AmqpError>,
}

#[derive(Debug)]
struct Counted<T> {
    what: T,
    left: u32,
}

impl FaultRules {
    pub(crate) fn refuse(
        &mut self,
        hub: String,
        partition: Option<String>,
        error: AmqpError,
        times: u32,
    ) {
        self.refusals.push(Refuse {
            hub,
            partition,
            error: Counted {
                what: error,
                left: times,
            },
        });
    }

    pub(crate) fn answer_cbs(&mut self, status: i32, times: u32) {
        self.cbs_answers.push(Counted {
            what: status,
            left: times,
        });
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The error for an attach to a partition (or to the hub as a whole), if it is to fail.
    pub(crate) fn on_attach(&mut self, hub: &str, partition: Option<&str>) -> Option<AmqpError> {
        let rule = self.refusals.iter_mut().find(|rule| {
            rule.hub.eq_ignore_ascii_case(hub)
                && (rule.partition.is_none() || rule.partition.as_deref() == partition)
        })?;
        rule.error.left = rule.error.left.saturating_sub(1);
        let error = rule.error.what.clone();
        self.refusals.retain(|rule| rule.error.left > 0);
        Some(error)
    }

    /// The status the next put-token gets, if it is not to be judged.
    pub(crate) fn on_put_token(&mut self) -> Option<i32> {
        let answer = self.cbs_answers.first_mut()?;
        answer.left = answer.left.saturating_sub(1);
        let status = answer.what;
        self.cbs_answers.retain(|answer| answer.left > 0);
        Some(status)
    }
}
