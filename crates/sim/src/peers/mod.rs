//! Models of the other SDKs' processors: their decisions, their order of requests, their clocks and their
//! unconditional checkpoints. Written from their sources; what they do wrong is here on purpose.

mod dotnet;
mod driver;
mod go;
mod java;
mod js;
mod pump;
mod python;
mod view;

use std::fmt;
use std::time::Duration;

pub(crate) use driver::{PeerHandle, PeerSetup, spawn};
pub(crate) use pump::PeerWork;
pub(crate) use view::View;

/// Which SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sdk {
    /// Azure.Messaging.EventHubs.Processor
    DotNet,
    /// azure-messaging-eventhubs
    Java,
    /// azure-eventhub
    Python,
    /// @azure/event-hubs
    Js,
    /// azeventhubs
    Go,
    /// azure_messaging_eventhubs
    Rust,
}

/// An SDK with one of its strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKind {
    /// The SDK.
    pub sdk: Sdk,
    /// Whether it claims all it wants at once.
    pub is_greedy: bool,
}

impl Sdk {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DotNet,
        Self::Java,
        Self::Python,
        Self::Js,
        Self::Go,
        Self::Rust,
    ];

    /// With its default strategy.
    #[must_use]
    pub fn with_defaults(self) -> PeerKind {
        PeerKind {
            sdk: self,
            is_greedy: matches!(self, Self::DotNet | Self::Python),
        }
    }

    pub(crate) fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::DotNet | Self::Java | Self::Python | Self::Rust => 30,
            Self::Js | Self::Go => 10,
        })
    }

    pub(crate) fn expiry(self) -> Duration {
        Duration::from_secs(match self {
            Self::DotNet | Self::Java => 120,
            Self::Python => 180,
            Self::Js | Self::Go | Self::Rust => 60,
        })
    }
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.sdk {
            Sdk::DotNet => ".NET",
            Sdk::Java => "Java",
            Sdk::Python => "Python",
            Sdk::Js => "JS",
            Sdk::Go => "Go",
            Sdk::Rust => "Rust",
        };
        let suffix = if *self == self.sdk.with_defaults() {
            ""
        } else if self.is_greedy {
            " greedy"
        } else {
            " balanced"
        };
        write!(f, "{name}{suffix}")
    }
}
