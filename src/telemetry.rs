//! Tracing targets in one place, and how errors are written into the log.

use std::error::Error;
use std::fmt;

/// Load balancing: cycles, claims, steals, renewals.
pub(crate) const LOAD_BALANCER: &str = "eventhubs_processor::load_balancer";
/// Terms of partitions: start, stop, failures, hooks.
pub(crate) const PROCESSOR: &str = "eventhubs_processor::processor";

/// Partitions that make no headway, hooks that take long.
pub(crate) const WATCHDOG: &str = "eventhubs_processor::watchdog";
/// Spans around calls of the handler.
pub(crate) const HANDLER: &str = "eventhubs_processor::handler";
/// Single frames of AMQP.
pub(crate) const FRAMES: &str = "eventhubs_processor::transport::frames";

/// An error with the errors behind it, on one line.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
