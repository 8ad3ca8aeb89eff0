//! HTTP proxies: which one a connection goes through.

use std::fmt;
use std::net::Ipv6Addr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::credential::Secret;
use crate::error::NetworkOptionError;

/// Whether connections go through an HTTP proxy (`CONNECT`), and through which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proxy {
    /// The one that the environment names when the client is made, by the rules of curl and reqwest: `HTTPS_PROXY`, else
    /// `ALL_PROXY` (or either in lower case), unless the host is in `NO_PROXY`. What cannot be read as an address counts as
    /// unset. Connections without TLS, which only lead to emulators, take no proxy from the environment.
    #[default]
    FromEnvironment,
    /// None, whatever the environment says.
    Direct,
    /// This one, whatever the environment says.
    Http(HttpProxy),
}

impl From<HttpProxy> for Proxy {
    fn from(proxy: HttpProxy) -> Self {
        Self::Http(proxy)
    }
}

impl Proxy {
    /// The proxy for a TLS connection to a host, or for one without TLS.
    pub(crate) fn toward(&self, host: &str, port: u16, tls: bool) -> Option<HttpProxy> {
        match self {
            Self::Direct => None,
            Self::Http(proxy) => Some(proxy.clone()),
            Self::FromEnvironment if tls => intercept(&Matcher::from_env(), host, port),
            Self::FromEnvironment => None,
        }
    }
}

pub(super) fn intercept(matcher: &Matcher, host: &str, port: u16) -> Option<HttpProxy> {
    let authority = authority(host, port);
    let uri = Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query("/")
        .build()
        .ok()?;
    matcher.intercept(&uri).map(|found| HttpProxy::from(&found))
}

/// Host and port as they stand in a URL.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Whether that may be the name of a host or its address, no brackets. The parser of URIs lets more through.
pub(super) fn is_host(text: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !text.is_empty() && text.bytes().all(is_usual);
    is_name || text.parse::<Ipv6Addr>().is_ok()
}

/// What the proxy itself is spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
    /// SOCKS, which the environment may name.
    Unsupported,
}

/// An HTTP proxy that lets connections through to other hosts (`CONNECT`). Its `Debug` form and its errors show no
/// credentials.
#[derive(Clone)]
pub struct HttpProxy {
    scheme: Scheme,
    host: String,
    port: u16,
    /// The value of the header.
    authorization: Option<Secret>,
}

impl HttpProxy {
    /// The proxy at `http://[user:password@]host[:port]`, or the same with `https` for one that is itself spoken to over
    /// TLS. The scheme may be left out; the port is then 80, or 443 with `https`. User and password may be
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// [`NetworkOptionError::InvalidProxy`] if that is no such address.
    pub fn new(address: &str) -> Result<Self, NetworkOptionError> {
        let invalid = |reason| NetworkOptionError::InvalidProxy { reason };
        let matcher = Matcher::builder().all(address.trim()).build();
        let anywhere = Uri::from_static("https://example.invalid/");
        let found = matcher
            .intercept(&anywhere)
            .map(|found| Self::from(&found))
            .ok_or_else(|| invalid("expected http://host:port"))?;
        match found.scheme {
            _ if !is_host(&found.host) => Err(invalid("expected a host name")),
            Scheme::Unsupported => Err(invalid("only http and https proxies are supported")),
            Scheme::Http | Scheme::Https => Ok(found),
        }
    }

    /// With a user name and a password, sent as `Basic`. The user name must not contain a colon.
    #[must_use]
    pub fn with_credentials(
        mut self,
        username: impl AsRef<str>,
        password: impl Into<Secret>,
    ) -> Self {
        let pair = format!("{}:{}", username.as_ref(), password.into().expose());
        let basic = format!("Basic {}", BASE64_STANDARD.encode(pair));
        self.authorization = Some(Secret::new(basic));
        self
    }

    /// Host name or address, no brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the proxy itself is spoken to over TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        self.scheme == Scheme::Https
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its address, without credentials.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.uses_tls() { "https" } else { "http" };
        format!("{scheme}://{self}")
    }

    /// The value of `Proxy-Authorization`, marked as a secret.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(self.authorization()?.expose()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    pub(crate) fn authorization(&self) -> Option<&Secret> {
        self.authorization.as_ref()
    }
}

impl From<&Intercept> for HttpProxy {
    fn from(found: &Intercept) -> Self {
        let uri = found.uri();
        let (scheme, default_port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            _ => (Scheme::Unsupported, 1080),
        };
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let authorization = found.basic_auth().and_then(|value| value.to_str().ok());
        Self {
            scheme,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            authorization: authorization.map(Secret::from),
        }
    }
}

/// Host and port; for errors.
impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy")
            .field("scheme", &self.scheme)
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl PartialEq for HttpProxy {
    fn eq(&self, other: &Self) -> bool {
        let all = |proxy: &Self| {
            let authorization = proxy.authorization.as_ref();
            (
                proxy.scheme,
                proxy.host.clone(),
                proxy.port,
                authorization.map(|secret| secret.expose().to_owned()),
            )
        };
        all(self) == all(other)
    }
}

impl Eq for HttpProxy {}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(proxy: &HttpProxy) -> Option<&str> {
        proxy.authorization().map(Secret::expose)
    }

    #[test]
    fn addresses_are_read_as_curl_reads_them() {
        for (address, scheme, host, port, authorization) in [
            ("http://proxy:3128", Scheme::Http, "proxy", 3128, None),
            ("http://proxy:3128/", Scheme::Http, "proxy", 3128, None),
            ("proxy:3128", Scheme::Http, "proxy", 3128, None),
            ("proxy.corp", Scheme::Http, "proxy.corp", 80, None),
            ("https://proxy", Scheme::Https, "proxy", 443, None),
            ("http://[::1]:8080", Scheme::Http, "::1", 8080, None),
            (
                // user, p:@ss
                "http://user:p%3A%40ss@proxy:1",
                Scheme::Http,
                "proxy",
                1,
                Some("Basic dXNlcjpwOkBzcw=="),
            ),
        ] {
            let proxy = HttpProxy::new(address).unwrap();
            assert_eq!(proxy.scheme(), scheme, "{address}");
            assert_eq!((proxy.host(), proxy.port()), (host, port), "{address}");
            assert_eq!(header(&proxy), authorization, "{address}");
        }
        for address in [
            "",
            "http://",
            "http://:3128",
            "ftp://proxy",
            "socks5://proxy:1080",
            "http://pro xy",
            "(ttp[::1]:8080",
        ] {
            assert!(HttpProxy::new(address).is_err(), "{address}");
        }
    }

    #[test]
    fn credentials_given_apart_are_those_of_the_address() {
        let apart = HttpProxy::new("http://proxy:1")
            .unwrap()
            .with_credentials("user", "p:@ss");
        let within = HttpProxy::new("http://user:p%3A%40ss@proxy:1").unwrap();
        assert_eq!(apart, within);
        let others = apart.clone().with_credentials("user", "other");
        assert_ne!(apart, others);
    }

    #[test]
    fn nothing_prints_credentials() {
        let proxy = HttpProxy::new("http://canary-user:canary-pass@proxy:1").unwrap();
        let printed = format!("{proxy} {proxy:?} {:?}", Proxy::Http(proxy.clone()));
        assert!(printed.contains("proxy:1"), "{printed}");
        for secret in ["canary", "Basic", "Y2FuYXJ5"] {
            assert!(!printed.contains(secret), "{printed}");
        }
        let broken = HttpProxy::new("canary-user:canary-pass@@").unwrap_err();
        assert!(!format!("{broken} {broken:?}").contains("canary"));
    }

    #[test]
    fn the_environment_is_read_by_the_rules_of_curl() {
        let matcher = Matcher::builder()
            .all("http://all:1")
            .https("http://u:p@https:2")
            .no("localhost, .internal.example, 10.0.0.0/8")
            .build();
        let to = |host| intercept(&matcher, host, 5671);
        let proxy = to("contoso.servicebus.windows.net").unwrap();
        assert_eq!(proxy.to_string(), "https:2");
        assert_eq!(header(&proxy), Some("Basic dTpw"));
        for host in ["localhost", "a.internal.example", "10.1.2.3"] {
            assert_eq!(to(host), None, "{host}");
        }
        assert!(to("::1").is_some());
        let all = Matcher::builder().all("socks5://all:1").build();
        let proxy = intercept(&all, "h", 443).unwrap();
        assert_eq!(proxy.scheme(), Scheme::Unsupported);
    }

    #[test]
    fn plain_connections_take_none_from_the_environment() {
        assert_eq!(Proxy::FromEnvironment.toward("emulator", 5672, false), None);
        assert_eq!(Proxy::Direct.toward("h", 5671, true), None);
        let proxy = HttpProxy::new("proxy:1").unwrap();
        let explicit = Proxy::from(proxy.clone());
        assert_eq!(explicit.toward("emulator", 5672, false), Some(proxy));
    }
}
