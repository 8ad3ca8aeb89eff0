//! The way to the account: through which proxy, with whose trust, and what went wrong on it.

use std::error::Error as StdError;

use rustls::ClientConfig;
use url::Url;

use super::failure::{Class, Failure, describe};
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError};
use crate::error::StoreErrorKind;
use crate::network::{HttpProxy, Scheme, certificate_problem, client_config};

/// What the HTTP client of hyper, below both client libraries, says of a 407 from a proxy; its type is not public.
const CREDENTIALS_WANTED: &str = "proxy authorization required";

/// How the account is reached.
#[derive(Clone, Debug)]
pub(super) struct Route {
    host: String,
    pub(super) proxy: Option<HttpProxy>,
}

impl Route {
    /// The way to an account, and what TLS connections on it are made with.
    pub(super) fn new(
        account_url: &Url,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<(Self, ClientConfig), BlobStoreConfigError> {
        let host = account_url.host_str().unwrap_or_default();
        let port = account_url.port_or_known_default().unwrap_or_default();
        let proxy = options
            .proxy
            .toward(host, port, account_url.scheme() == "https");
        if proxy
            .as_ref()
            .is_some_and(|proxy| proxy.scheme() == Scheme::Unsupported)
        {
            return Err(BlobStoreConfigError::InvalidOption {
                option: "proxy",
                reason: "the environment names a proxy that is no HTTP proxy",
            });
        }
        let route = Self {
            host: host.to_owned(),
            proxy,
        };
        let config = client_config(&options.tls).map_err(|_| BlobStoreConfigError::Client)?;
        Ok((route, config))
    }

    /// What is on the way and will be there the next time, if that is behind the error.
    pub(super) fn obstacle(&self, error: &(dyn StdError + 'static)) -> Option<Failure> {
        if let Some(problem) = certificate_problem(error, &self.host) {
            let kind = StoreErrorKind::Certificate;
            return Some(Failure::new(Class::Refused, kind, problem));
        }
        let proxy = self.proxy.as_ref()?;
        describe(error).contains(CREDENTIALS_WANTED).then(|| {
            let what = match proxy.authorization() {
                Some(_) => "does not accept the credentials",
                None => "wants credentials",
            };
            let detail = format!("the proxy {proxy} {what} (HTTP 407)");
            Failure::new(Class::Refused, StoreErrorKind::Proxy, detail)
        })
    }

    /// A request that was never sent.
    pub(super) fn unsent(&self, error: &(dyn StdError + 'static)) -> Failure {
        let mut failure = Failure::unsent(error);
        if let Some(proxy) = &self.proxy {
            failure.detail = format!("through the proxy {proxy}: {}", failure.detail);
        }
        failure
    }
}
