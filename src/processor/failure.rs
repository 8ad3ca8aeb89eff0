//! What happens to an event whose hook fails. Pure.

use crate::error::{BoxError, ProcessingError};

/// What to do when a hook fails for an event, or for a batch of them.
///
/// A handler chooses for one error with [`because`](Self::because); [`FailurePolicy`] says what happens otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureAction {
    /// Ends the partition's term and starts it again from its checkpoint, after a wait that doubles from failure to
    /// failure: everything after the checkpoint is processed again. The default, and what the other SDKs do.
    #[default]
    Restart,
    /// Calls the hook again with the same events, after a wait that doubles from failure to failure
    /// ([`retry_delay`](super::ProcessorOptions::retry_delay)), for as long as it fails. Nothing after them is
    /// handed out meanwhile; with [`concurrency`](super::ProcessorOptions::concurrency), nothing of the same key.
    Retry,
    /// Goes on as if the events had been processed. Each skip is told to
    /// [`on_error`](super::EventHandler::on_error) as [`Skipped`](ProcessingError::Skipped) and counted.
    Skip,
    /// Stores the events as dead letters, with the error, and goes on. If they cannot be stored, that is tried again
    /// until they are: an event is never passed over before its dead letter is safe.
    DeadLetter,
    /// Stops reading the partition. It stays owned, so that no other processor runs into the same event, and is read
    /// again from its checkpoint after [`resume`](super::ProcessorHandle::resume).
    StopPartition,
    /// Stops the whole processor gracefully; [`run`](super::EventProcessor::run) then returns
    /// [`ProcessorError::Handler`](crate::ProcessorError::Handler).
    StopProcessor,
}

impl FailureAction {
    /// An error that asks for this action, at once and whatever the policy says.
    ///
    /// ```
    /// # use eventhubs_processor::{FailureAction, HandlerResult, ReceivedEvent};
    /// # fn parse(_: &[u8]) -> Result<(), std::fmt::Error> { Ok(()) }
    /// # async fn on_event(event: ReceivedEvent) -> HandlerResult {
    /// parse(event.body()).map_err(|error| FailureAction::DeadLetter.because(error))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn because(self, error: impl Into<BoxError>) -> BoxError {
        Box::new(Decided {
            action: self,
            source: error.into(),
        })
    }
}

/// An error that says what is to be done about it.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
struct Decided {
    action: FailureAction,
    source: BoxError,
}

/// What to do about failures, unless the error itself says so ([`FailureAction::because`]). A panic of the handler is a
/// failure like any other.
///
/// ```
/// # use eventhubs_processor::{FailureAction, FailurePolicy};
/// // Three more tries in place, then away with it.
/// let policy = FailurePolicy::retry(3).then(FailureAction::DeadLetter);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailurePolicy {
    /// How often the hook is called again with the same events before [`then`](Self::then). Default: 0.
    pub retries: u32,
    /// What happens once the retries are used up. Default: [`FailureAction::Restart`].
    pub then: FailureAction,
    /// What happens to an event that cannot be decoded, for which no hook is called and no retry can help. Default:
    /// [`FailureAction::Restart`], that is, the partition stands still, and says so, until the event expires or the
    /// policy changes.
    pub undecodable: FailureAction,
}

impl FailurePolicy {
    /// So many more calls of the hook with the same events, then [`FailureAction::Restart`].
    #[must_use]
    pub fn retry(retries: u32) -> Self {
        Self {
            retries,
            ..Self::default()
        }
    }

    /// Sets what happens once the retries are used up.
    #[must_use]
    pub fn then(mut self, action: FailureAction) -> Self {
        self.then = action;
        self
    }

    /// Sets what happens to events that cannot be decoded.
    #[must_use]
    pub fn undecodable(mut self, action: FailureAction) -> Self {
        self.undecodable = action;
        self
    }

    /// What follows the `failures`-th failure for the same events.
    pub(super) fn action(&self, error: &ProcessingError, failures: u32) -> FailureAction {
        match error {
            ProcessingError::Undecodable { .. } => match self.undecodable {
                // Trying again in place would not even wait for a new message.
                FailureAction::Retry => FailureAction::Restart,
                action => action,
            },
            ProcessingError::Handler { source, .. } => match source.downcast_ref::<Decided>() {
                Some(decided) => decided.action,
                None => self.after(failures),
            },
            _ => self.after(failures),
        }
    }

    fn after(&self, failures: u32) -> FailureAction {
        if failures <= self.retries {
            FailureAction::Retry
        } else {
            self.then
        }
    }

    /// Whether dead letters may have to be stored.
    pub(super) fn needs_dead_letters(&self) -> bool {
        [self.then, self.undecodable].contains(&FailureAction::DeadLetter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(source: impl Into<BoxError>) -> ProcessingError {
        ProcessingError::Handler {
            hook: "on_event",
            source: source.into(),
        }
    }

    #[test]
    fn retries_come_before_the_last_resort() {
        let policy = FailurePolicy::retry(2).then(FailureAction::Skip);
        let error = failure("no");
        assert_eq!(policy.action(&error, 1), FailureAction::Retry);
        assert_eq!(policy.action(&error, 2), FailureAction::Retry);
        assert_eq!(policy.action(&error, 3), FailureAction::Skip);
        let panicked = ProcessingError::HandlerPanicked { hook: "on_event" };
        assert_eq!(policy.action(&panicked, 2), FailureAction::Retry);
        assert_eq!(policy.action(&panicked, 3), FailureAction::Skip);
        assert_eq!(
            FailurePolicy::default().action(&error, 1),
            FailureAction::Restart
        );
    }

    #[test]
    fn an_error_that_says_what_to_do_has_the_last_word() {
        let policy = FailurePolicy::retry(5).then(FailureAction::StopProcessor);
        let error = failure(FailureAction::DeadLetter.because("bad customer number"));
        assert_eq!(policy.action(&error, 1), FailureAction::DeadLetter);
        let ProcessingError::Handler { source, .. } = error else {
            unreachable!()
        };
        assert_eq!(source.to_string(), "bad customer number");
    }

    #[test]
    fn what_cannot_be_decoded_has_a_rule_of_its_own() {
        let undecodable = ProcessingError::Undecodable {
            sequence_number: Some(7),
            source: "bad map".into(),
        };
        let policy = FailurePolicy::retry(9).then(FailureAction::Skip);
        assert_eq!(policy.action(&undecodable, 1), FailureAction::Restart);
        let policy = policy.undecodable(FailureAction::DeadLetter);
        assert_eq!(policy.action(&undecodable, 1), FailureAction::DeadLetter);
        let policy = policy.undecodable(FailureAction::Retry);
        assert_eq!(policy.action(&undecodable, 1), FailureAction::Restart);
    }
}
