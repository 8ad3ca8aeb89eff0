//! Who we are: connection strings, keys, signatures and tokens. Secrets never print.

mod event_hubs;
mod pairs;
mod sas;
mod secret;
mod token;

pub(crate) use event_hubs::{CredentialKind, parse_host};
pub use event_hubs::{EventHubsConnectionString, EventHubsCredential};
pub use pairs::ConnectionStringError;
pub use secret::Secret;
pub use token::{AccessToken, TokenCredential};
