//! The way to the account: through which proxy, with whose trust, and what went wrong on it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::failure::{Class, Failure, describe};
use super::requests::CONNECT_TIMEOUT;
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError};
use crate::error::StoreErrorKind;
use crate::network::tunnel::{self, TunnelError};
use crate::network::{HttpProxy, Scheme, certificate_problem, client_config};

/// What the HTTP client of hyper, below both client libraries, says of a 407 from a proxy; its type is not public.
const CREDENTIALS_WANTED: &str = "proxy authorization required";
/// The same, of every other status.
const NO_TUNNEL: &str = "tunnel error: unsuccessful";

/// How the account is reached.
#[derive(Clone, Debug)]
pub(super) struct Route {
    host: String,
    port: u16,
    pub(super) proxy: Option<HttpProxy>,
    tls: Arc<ClientConfig>,
    /// Longest time for a question to the proxy.
    patience: Duration,
}

impl Route {
    /// The way to an account, and what TLS connections on it are made with.
    pub(super) fn new(
        account_url: &Url,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let host = account_url.host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
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
        let tls = client_config(&options.tls).map_err(|_| BlobStoreConfigError::Client)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            proxy,
            tls: Arc::new(tls),
            patience: CONNECT_TIMEOUT.min(options.retry.try_timeout),
        })
    }

    /// What TLS connections are made with.
    pub(super) fn tls(&self) -> ClientConfig {
        ClientConfig::clone(&self.tls)
    }

    /// What stands in the way, if that is behind the error.
    pub(super) async fn obstacle(
        &self,
        error: &(dyn StdError + Send + Sync + 'static),
    ) -> Option<Failure> {
        if let Some(problem) = certificate_problem(error, &self.host) {
            let kind = StoreErrorKind::Certificate;
            return Some(Failure::new(Class::Refused, kind, problem));
        }
        let proxy = self.proxy.as_ref()?;
        let told = describe(error);
        let refusal = if told.contains(CREDENTIALS_WANTED) {
            tunnel::judge(407, proxy).err()?
        } else if told.contains(NO_TUNNEL) {
            // Which status it was, the HTTP client keeps to itself. The proxy says it once more.
            let asked = tunnel::ask(proxy, &self.tls, &self.host, self.port);
            timeout(self.patience, asked).await.ok()?.err()?
        } else {
            return None;
        };
        match refusal {
            TunnelError::Io(_) => None,
            passing @ TunnelError::Unreachable { .. } => Some(Failure::new(
                Class::NotDone,
                StoreErrorKind::Unavailable,
                passing.to_string(),
            )),
            refusal => Some(refused(&refusal)),
        }
    }

    /// An answer that is no success and that the proxy gave in place of the account: one without TLS to the account does.
    pub(super) fn answered<'a>(
        &self,
        status: u16,
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Option<Failure> {
        let proxy = self.proxy.as_ref()?;
        // PROTOCOL: the service puts it on every answer.
        if header("x-ms-request-id").is_some() {
            return None;
        }
        let mut failure = Failure::answered(status, header, SystemTime::now());
        match (status, tunnel::judge(status, proxy)) {
            (401 | 403 | 407, Err(refusal)) => return Some(refused(&refusal)),
            // Whether the account has heard of the request, it does not say.
            (_, Err(passing @ TunnelError::Unreachable { .. })) => {
                failure.detail = passing.to_string();
            }
            _ => {
                let detail = failure.detail;
                failure.detail = format!("{detail}, it seems of the proxy {proxy}");
            }
        }
        Some(failure)
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

/// What the proxy will say again the next time.
fn refused(refusal: &TunnelError) -> Failure {
    Failure::new(Class::Refused, StoreErrorKind::Proxy, refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let proxy = HttpProxy::new("http://canary:canary@proxy:1").unwrap();
        let options = BlobCheckpointStoreOptions::default().with_proxy(proxy);
        let account = Url::parse("http://account.example").unwrap();
        Route::new(&account, &options).unwrap()
    }

    #[test]
    fn an_answer_of_the_proxy_is_told_from_one_of_the_account() {
        use StoreErrorKind as K;
        let route = route();
        for (status, class, kind, told) in [
            (401, Class::Refused, K::Proxy, "does not accept"),
            (403, Class::Refused, K::Proxy, "does not allow it"),
            (407, Class::Refused, K::Proxy, "does not accept"),
            (429, Class::NotDone, K::Busy, "did not get through"),
            // A write may have reached the account.
            (502, Class::Ambiguous, K::Unavailable, "did not get through"),
            (503, Class::Ambiguous, K::Busy, "did not get through"),
            (302, Class::Refused, K::Rejected, "HTTP 302"),
            (404, Class::Refused, K::Rejected, "HTTP 404"),
        ] {
            let failure = route.answered(status, |_| None).unwrap();
            assert_eq!((failure.class, failure.kind), (class, kind), "{status}");
            let text = failure.detail;
            assert!(text.contains(told) && text.contains("proxy:1"), "{text}");
            assert!(!text.contains("canary"), "{text}");

            let of_account = |name| (name == "x-ms-request-id").then_some("1");
            assert!(route.answered(status, of_account).is_none(), "{status}");
        }
    }
}
