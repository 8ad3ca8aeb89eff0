//! The official Rust client 0.16 on the emulator, feature by feature. Logs go to stderr, as `RUST_LOG` says.

mod buffered;
#[path = "../../rust/features.rs"]
mod features;
#[path = "../../rust/namespace.rs"]
mod namespace;

use namespace::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match std::env::args().nth(1).as_deref() {
        Some("features") => features::features().await,
        Some("latest") => features::latest().await,
        Some("owner-levels") => features::owner_levels().await,
        _ => Err("usage: interop-rust-0-16 features|latest|owner-levels".into()),
    }
}
