//! Who we are: connection strings, keys, signatures and tokens. Secrets never print.

#[cfg(feature = "azure-identity")]
pub mod azure_identity;
mod event_hubs;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod named_key;
mod pairs;
mod renewable;
pub(crate) mod renewal;
mod sas;
mod secret;
mod storage;
mod token;

pub(crate) use event_hubs::{CredentialKind, namespace_name, parse_host};
pub use event_hubs::{EventHubsConnectionString, EventHubsCredential};
pub use named_key::NamedKeyCredential;
pub(crate) use named_key::Versioned;
pub use pairs::ConnectionStringError;
pub(crate) use renewable::SignatureSource;
pub(crate) use sas::SharedAccessSignature;
pub use secret::Secret;
pub use storage::{StorageConnectionString, StorageCredential};
pub(crate) use storage::{StorageCredentialKind, StorageSignature, decode_key, parse_endpoint};
pub use token::{AccessToken, IssuerRefusal, TokenCredential};
