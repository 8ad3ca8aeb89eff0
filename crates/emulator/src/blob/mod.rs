//! The Blob endpoint: an in-memory storage account, as far as checkpoint stores use one.
//!
//! It answers like the real service. Where Azurite is known to answer otherwise, [`Deviations`]
//! chooses. A request goes through `request` (what is asked), `auth` (may it), `faults` (what a
//! test has ordered), `state` (what happens) and `response` (what is said); `state` and what it
//! uses do no IO and take time as an argument.

mod account;
mod auth;
mod clock;
mod conditions;
mod errors;
mod faults;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod journal;
mod last_modified;
mod list;
mod metadata;
mod names;
mod operations;
mod request;
mod response;
mod server;
mod service;
mod spelling;
mod state;
mod xml;

#[cfg(test)]
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

pub(crate) use self::account::BlobAccount;
pub(crate) use self::faults::{ActiveBlobFault, FaultEffect, FaultReply, FaultScope, LastModified};
pub use self::request::Operation as BlobOperation;
pub(crate) use self::{
    auth::AccountKey, clock::WallClock, faults::BlobFaults, state::Limits,
    state::Store as BlobStore,
};
use self::{server::Listening, service::BlobService};
use crate::issuer::Issuer;

/// The account every Azure storage emulator has.
pub(crate) const WELL_KNOWN_ACCOUNT: &str = "devstoreaccount1";
/// Its key, the same everywhere and no secret (Azurite's README, "Default storage account").
pub(crate) const WELL_KNOWN_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where to answer like Azurite 3.35 and not like the service; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deviations {
    /// Set Blob Metadata with `If-None-Match: *` overwrites an existing blob.
    ///
    /// The service documents a failed precondition (412), which is what is answered when this is
    /// off; nobody has shown it on a real account.
    pub(crate) set_metadata_ignores_if_none_match_any: bool,
    /// Set Blob Metadata with `If-Match` on a missing blob answers 412 and not 404.
    pub(crate) set_metadata_on_missing_checks_conditions: bool,
}

impl Deviations {
    /// Every known deviation of Azurite 3.35.
    pub(crate) fn azurite() -> Self {
        Self {
            set_metadata_ignores_if_none_match_any: true,
            set_metadata_on_missing_checks_conditions: true,
        }
    }
}

/// How the endpoint is set up.
#[derive(Clone, Debug)]
pub(crate) struct BlobOptions {
    /// The account; the first segment of every path.
    pub(crate) account: String,
    /// Its key; without one, requests are not checked.
    pub(crate) key: Option<AccountKey>,
    /// Whose bearer tokens are good as well.
    pub(crate) issuer: Option<Issuer>,
    /// Whether requests and signatures may be too old; a driven clock wants this off.
    pub(crate) check_dates: bool,
    /// The clock behind `Date` and `Last-Modified`.
    pub(crate) clock: WallClock,
    /// Where to answer like Azurite.
    pub(crate) deviations: Deviations,
    /// How much is stored at most.
    pub(crate) limits: Limits,
    /// The largest request body.
    pub(crate) max_body_bytes: usize,
    /// The largest request line with its headers; at least 8 KiB.
    pub(crate) max_header_bytes: usize,
    /// Connections served at the same time; more wait to be accepted.
    pub(crate) max_connections: usize,
    /// What to start with; an empty account without.
    pub(crate) store: Option<BlobStore>,
    /// How long the head of a request may take, the wait between two requests included. With
    /// paused time this must be `None`: time would jump to its end while a socket is slow.
    pub(crate) header_timeout: Option<Duration>,
    /// How long the body of a request may take; `None` with paused time, as above.
    pub(crate) body_timeout: Option<Duration>,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self {
            account: WELL_KNOWN_ACCOUNT.to_owned(),
            key: AccountKey::from_base64(WELL_KNOWN_KEY).ok(),
            issuer: None,
            check_dates: true,
            clock: WallClock::default(),
            deviations: Deviations::default(),
            limits: Limits {
                total_bytes: 256 << 20,
                containers: 1_000,
                blobs: 200_000,
            },
            max_body_bytes: 8 << 20,
            max_header_bytes: 64 << 10,
            max_connections: 1_024,
            store: None,
            // Longer than the pause between two load-balancing cycles of any SDK, so that a
            // pooled connection is not closed under a request.
            header_timeout: Some(Duration::from_secs(150)),
            body_timeout: Some(Duration::from_secs(30)),
        }
    }
}

/// A running Blob endpoint; dropping it ends every connection at once.
#[derive(Debug)]
pub(crate) struct BlobServer {
    service: BlobService,
    #[cfg(test)]
    address: Option<SocketAddr>,
    listening: Listening,
}

impl BlobServer {
    /// Serves `listener` until stopped or dropped.
    pub(crate) fn start(listener: TcpListener, options: BlobOptions) -> Self {
        let service = BlobService::new(options);
        #[cfg(test)]
        let address = listener.local_addr().ok();
        let listening = Listening::start(listener, service.clone());
        Self {
            service,
            #[cfg(test)]
            address,
            listening,
        }
    }

    /// What is stored, for changes by hand.
    pub(crate) fn account(&self) -> BlobAccount {
        BlobAccount {
            service: self.service.clone(),
        }
    }

    /// The faults of this endpoint.
    pub(crate) fn faults(&self) -> &BlobFaults {
        self.service.faults()
    }

    /// The URL of the account, if the listener told its address.
    #[cfg(test)]
    pub(crate) fn endpoint(&self) -> Option<String> {
        let account = &self.service.options().account;
        Some(format!("http://{}/{account}", self.address?))
    }

    /// Stops accepting, lets requests under way finish for a moment, and returns when every
    /// connection is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends every connection at once.
    pub(crate) async fn stop(mut self) {
        self.listening.stop().await;
    }
}

#[cfg(test)]
mod tests;
