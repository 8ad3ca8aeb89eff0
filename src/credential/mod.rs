//! Who we are: connection strings, keys, signatures and tokens. Secrets never print.

mod pairs;
mod secret;
mod storage;
mod token;

pub use pairs::ConnectionStringError;
pub use secret::Secret;
pub use storage::{StorageConnectionString, StorageCredential};
pub(crate) use storage::{decode_key, parse_endpoint};
pub use token::{AccessToken, TokenCredential};
