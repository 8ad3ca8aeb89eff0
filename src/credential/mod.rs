//! Who we are: connection strings, keys, signatures and tokens. Secrets never print.

mod pairs;
mod secret;
mod token;

pub use pairs::ConnectionStringError;
pub use secret::Secret;
pub use token::{AccessToken, TokenCredential};
