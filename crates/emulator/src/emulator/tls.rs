//! The certificates of the TLS ports.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Names of this machine that clients may connect to.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Days a certificate is good for. Some platforms refuse longer ones, even of a private CA.
const DAYS: i64 = 397;

/// What TLS ports show.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) acceptor: TlsAcceptor,
    /// What clients have to trust, if it was made here.
    pub(super) ca_pem: Option<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub(super) enum TlsError {
    #[error("the certificate or the key is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("no certificate for these names: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("the certificate does not go with the key: {0}")]
    Config(#[from] rustls::Error),
}

impl Identity {
    /// Makes a certificate authority that nobody else has, and a certificate of it for this machine
    /// and other names.
    pub(super) fn generate(other_names: &[String]) -> Result<Self, TlsError> {
        let now = OffsetDateTime::now_utc();
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name
            .push(DnType::CommonName, "eventhubs-emulator CA");
        // Clocks of containers may be a little behind.
        ca.not_before = now - Duration::days(1);
        ca.not_after = now + Duration::days(DAYS);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

        let names = NAMES.iter().map(|name| (*name).to_owned());
        let names: Vec<String> = names.chain(other_names.iter().cloned()).collect();
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name
            .push(DnType::CommonName, "eventhubs-emulator");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // INTEROP: Python from 3.13 on wants it.
        leaf.use_authority_key_identifier_extension = true;
        leaf.not_before = now - Duration::days(1);
        leaf.not_after = now + Duration::days(DAYS);
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &ca)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|text| rustls::Error::General(text.to_owned()))?;
        Ok(Self {
            acceptor: acceptor(vec![certificate.der().clone()], key)?,
            ca_pem: Some(ca.pem()),
        })
    }

    /// Takes a chain of certificates and its key.
    pub(super) fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(TlsError::Pem)?;
        Ok(Self {
            acceptor: acceptor(chain, key)?,
            ca_pem: None,
        })
    }
}

fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
