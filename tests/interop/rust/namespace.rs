//! What the programs share: where the emulator is, a token that it takes, JSON lines on stdout.

use std::env;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use serde_json::Value;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The namespace of a connection string, which the SDK does not read itself for an emulator.
pub struct Namespace {
    pub host: String,
}

impl Namespace {
    pub fn from_env() -> Self {
        let text = required("EVENTHUBS_CONNECTION_STRING");
        let endpoint = text
            .split(';')
            .find_map(|part| part.strip_prefix("Endpoint=sb://"));
        let host = endpoint
            .expect("an Endpoint")
            .trim_end_matches('/')
            .to_owned();
        Self { host }
    }

    /// Without TLS, which `UseDevelopmentEmulator` does not switch off here.
    pub fn custom_endpoint(&self) -> String {
        format!("amqp://{}:5672", self.host)
    }
}

/// An emulator without a key takes every token.
#[derive(Debug)]
pub struct AnyToken;

impl AnyToken {
    pub fn new() -> Arc<dyn TokenCredential> {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl TokenCredential for AnyToken {
    async fn get_token(
        &self,
        _scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let expires_on = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        Ok(AccessToken::new("any", expires_on))
    }
}

pub fn required(name: &str) -> String {
    match env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => {
            eprintln!("the environment variable {name} is not set");
            std::process::exit(1);
        }
    }
}

/// A line goes out whole and at once, so that whoever kills this process sees all it did.
pub fn print_line(line: &Value) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .expect("stdout");
}
