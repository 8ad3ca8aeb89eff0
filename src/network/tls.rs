//! Whom TLS trusts, and who we say we are.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credential::Secret;
use crate::error::NetworkOptionError;

/// Whom TLS connections trust, and the certificate that they show.
///
/// The default trusts what the platform trusts and shows none. Certificates are always checked, the host name too; there
/// is no way to switch that off.
#[derive(Clone)]
pub struct TlsOptions {
    ca_certificates: Vec<CertificateDer<'static>>,
    trusts_platform: bool,
    identity: Option<Identity>,
}

/// A certificate of ours with its key, both PEM.
#[derive(Clone)]
struct Identity {
    chain: String,
    key: Secret,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            ca_certificates: Vec::new(),
            trusts_platform: true,
            identity: None,
        }
    }
}

impl TlsOptions {
    /// Trusts these certificate authorities, too: PEM with one or more of them, or one in DER. In Python that is
    /// `connection_verify`.
    ///
    /// # Errors
    ///
    /// [`NetworkOptionError::InvalidCaCertificates`] if there is none in it, or one that cannot be read.
    pub fn with_ca_certificates(
        mut self,
        pem_or_der: impl AsRef<[u8]>,
    ) -> Result<Self, NetworkOptionError> {
        let invalid = |reason| NetworkOptionError::InvalidCaCertificates { reason };
        let bytes = pem_or_der.as_ref();
        let certificates = match is_pem(bytes) {
            true => CertificateDer::pem_slice_iter(bytes)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| invalid("the PEM text cannot be read"))?,
            false => vec![CertificateDer::from(bytes.to_vec())],
        };
        if certificates.is_empty() {
            return Err(invalid("there is no certificate in it"));
        }
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store
                .add(certificate.clone())
                .map_err(|_| invalid("expected X.509 certificates, as PEM or DER"))?;
        }
        self.ca_certificates.extend(certificates);
        Ok(self)
    }

    /// Whether authorities that the platform trusts are trusted. Default `true`. With `false` only those of
    /// [`with_ca_certificates`](Self::with_ca_certificates) are, and without any, nobody is.
    #[must_use]
    pub fn with_platform_trust(mut self, trusts_platform: bool) -> Self {
        self.trusts_platform = trusts_platform;
        self
    }

    /// Shows this certificate to servers that ask for one (mutual TLS), such as a gateway of your own; Event Hubs does not
    /// ask. Both are PEM: the certificate with what it takes to get from it to its authority, and its private key.
    ///
    /// # Errors
    ///
    /// [`NetworkOptionError::InvalidClientCertificate`] if one of them cannot be read, or they do not belong together.
    pub fn with_client_certificate(
        mut self,
        chain_pem: impl AsRef<str>,
        key_pem: impl Into<Secret>,
    ) -> Result<Self, NetworkOptionError> {
        let identity = Identity {
            chain: chain_pem.as_ref().to_owned(),
            key: key_pem.into(),
        };
        identity.certified(&provider())?;
        self.identity = Some(identity);
        Ok(self)
    }
}

impl Identity {
    fn certified(&self, provider: &CryptoProvider) -> Result<CertifiedKey, NetworkOptionError> {
        let invalid = |reason| NetworkOptionError::InvalidClientCertificate { reason };
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| invalid("the PEM text of the certificate cannot be read"))?;
        if chain.is_empty() {
            return Err(invalid("there is no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes())
            .map_err(|_| invalid("expected an unencrypted private key as PEM"))?;
        CertifiedKey::from_der(chain, key, provider)
            .map_err(|_| invalid("certificate and key cannot be used together"))
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

fn provider() -> Arc<CryptoProvider> {
    // Named here: with two of them in the build, rustls would panic over the choice.
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes a connection to a host one with TLS.
pub(crate) async fn over_tls<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    host: &str,
    stream: S,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// What TLS connections are made with. Reading the platform's trusted certificates touches files.
pub(crate) fn client_config(options: &TlsOptions) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let roots = options.ca_certificates.iter().cloned();
    let verifier: Arc<dyn ServerCertVerifier> = if options.trusts_platform {
        Arc::new(Verifier::new_with_extra_roots(
            roots,
            Arc::clone(&provider),
        )?)
    } else {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(&provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(identity) = &options.identity else {
        return Ok(config.with_no_client_auth());
    };
    let certified = identity
        .certified(&provider)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
    Ok(config.with_client_cert_resolver(resolver))
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("ca_certificates", &self.ca_certificates.len())
            .field("platform_trust", &self.trusts_platform)
            .field("client_certificate", &self.identity.is_some())
            .finish()
    }
}

impl PartialEq for TlsOptions {
    fn eq(&self, other: &Self) -> bool {
        let pair = |options: &Self| {
            let identity = options.identity.as_ref();
            identity.map(|identity| (identity.chain.clone(), identity.key.expose().to_owned()))
        };
        self.ca_certificates == other.ca_certificates
            && self.trusts_platform == other.trusts_platform
            && pair(self) == pair(other)
    }
}

impl Eq for TlsOptions {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String, Vec<u8>) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem(), cert.der().to_vec())
    }

    #[test]
    fn authorities_come_as_pem_or_der() {
        let (pem, _, der) = pair();
        let (other, ..) = pair();
        let options = TlsOptions::default()
            .with_ca_certificates(format!("a comment\n{pem}{other}"))
            .unwrap()
            .with_ca_certificates(&der)
            .unwrap();
        assert_eq!(options.ca_certificates.len(), 3);
        assert_eq!(options.ca_certificates[0], options.ca_certificates[2]);
        client_config(&options).unwrap();
        client_config(&options.with_platform_trust(false)).unwrap();
    }

    #[test]
    fn what_is_no_authority_is_refused_at_once() {
        let (pem, key, _) = pair();
        let broken = pem.replace("BEGIN CERTIFICATE", "BEGIN CERTIFICATE-");
        for bad in ["", "text", &key, &broken] {
            let refused = TlsOptions::default().with_ca_certificates(bad);
            assert!(refused.is_err(), "{bad}");
        }
    }

    #[test]
    fn trusting_nobody_is_an_error_and_not_trusting_everybody() {
        assert!(client_config(&TlsOptions::default().with_platform_trust(false)).is_err());
    }

    #[test]
    fn a_client_certificate_needs_its_own_key() {
        let (pem, key, _) = pair();
        let (_, other_key, _) = pair();
        let with = |chain: &str, key: &str| {
            TlsOptions::default().with_client_certificate(chain, key.to_owned())
        };
        let options = with(&pem, &key).unwrap();
        assert!(
            client_config(&options)
                .unwrap()
                .client_auth_cert_resolver
                .has_certs()
        );
        for (chain, key) in [
            (&*pem, &*other_key),
            (&*pem, "no key"),
            ("", &*key),
            (&*key, &*key),
        ] {
            let error = with(chain, key).unwrap_err();
            assert!(matches!(
                error,
                NetworkOptionError::InvalidClientCertificate { .. }
            ));
        }
        let body = key.lines().nth(1).unwrap();
        assert!(!format!("{options:?}").contains(body));
    }
}
