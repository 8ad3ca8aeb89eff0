//! Who we are: connection strings, keys, signatures and tokens. Secrets never print.

mod event_hubs;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod pairs;
mod sas;
mod secret;
mod storage;
mod token;

pub(crate) use event_hubs::{CredentialKind, namespace_name, parse_host};
pub use event_hubs::{EventHubsConnectionString, EventHubsCredential};
pub use pairs::ConnectionStringError;
pub use secret::Secret;
pub use storage::{StorageConnectionString, StorageCredential};
pub(crate) use storage::{decode_key, parse_endpoint};
pub use token::{AccessToken, TokenCredential};
