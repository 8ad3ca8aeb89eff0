//! The way to the services, where it is not the straight one: HTTP proxies, certificate authorities and client
//! certificates. The same settings do for Event Hubs ([`AmqpOptions`](crate::transport::AmqpOptions)) and for blobs
//! ([`BlobCheckpointStoreOptions`](crate::checkpoint::BlobCheckpointStoreOptions)).
//!
//! ```
//! use eventhubs_processor::checkpoint::BlobCheckpointStoreOptions;
//! use eventhubs_processor::network::{HttpProxy, TlsOptions};
//! use eventhubs_processor::transport::{AmqpOptions, TransportType};
//!
//! # fn example(ca: &[u8], password: &str) -> Result<(), eventhubs_processor::error::NetworkOptionError> {
//! let proxy = HttpProxy::new("http://proxy.contoso.com:3128")?.with_credentials("consumer", password);
//! let tls = TlsOptions::default().with_ca_certificates(ca)?;
//! let amqp = AmqpOptions::default()
//!     .with_transport_type(TransportType::AmqpWebSockets)
//!     .with_proxy(proxy.clone())
//!     .with_tls(tls.clone());
//! let blobs = BlobCheckpointStoreOptions::default().with_proxy(proxy).with_tls(tls);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod head;
mod proxy;
mod tls;
mod trust;
pub(crate) mod tunnel;

pub(crate) use head::Head;
pub use proxy::{HttpProxy, Proxy};
pub(crate) use proxy::{Scheme, authority};
pub use tls::TlsOptions;
pub(crate) use tls::{client_config, over_tls};
pub(crate) use trust::certificate_problem;
