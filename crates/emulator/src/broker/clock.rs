//! The time events are enqueued at.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Wall time, or the time of a runtime whose clock a test drives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    Wall,
    Driven { began: SystemTime, origin: Instant },
}

impl Clock {
    pub(crate) fn driven() -> Self {
        Self::Driven {
            began: SystemTime::now(),
            origin: Instant::now(),
        }
    }

    pub(crate) fn is_driven(self) -> bool {
        matches!(self, Self::Driven { .. })
    }

    pub(crate) fn now(self) -> SystemTime {
        match self {
            Self::Wall => SystemTime::now(),
            Self::Driven { began, origin } => began + origin.elapsed(),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(self) -> i64 {
        self.now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
    }
}
