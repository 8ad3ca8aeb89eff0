//! The certificates of the TLS ports, good ones and those that faults show.

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

use super::fault_kinds::TlsFault;

/// Names of this machine that clients may connect to.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The name in a certificate of somebody else (RFC 2606 keeps it free).
const OTHER_NAME: &str = "other.invalid";
/// Days a certificate is good for. Some platforms refuse longer ones, even of a private CA.
const DAYS: i64 = 397;

const OWN_AUTHORITY: &str = "eventhubs-emulator CA";
/// With the same name, clients would take it for a bad signature of the other.
const OTHER_AUTHORITY: &str = "an authority nobody knows";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What TLS ports show.
pub(crate) struct Identity {
    pub(crate) acceptor: TlsAcceptor,
    names: Vec<String>,
    /// What has signed the certificate, if it was made here.
    authority: Option<Authority>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
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
    pub(crate) fn generate(other_names: &[String]) -> Result<Self, TlsError> {
        let authority = authority(OWN_AUTHORITY)?;
        let names = names(other_names);
        let now = OffsetDateTime::now_utc();
        Ok(Self {
            acceptor: signed(&leaf(&names, now)?, Some(&authority))?,
            names,
            authority: Some(authority),
        })
    }

    /// Takes a chain of certificates and its key.
    pub(crate) fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(TlsError::Pem)?;
        Ok(Self {
            acceptor: acceptor(chain, key)?,
            names: names(&[]),
            authority: None,
        })
    }

    /// What clients have to trust, if it was made here.
    pub(crate) fn ca_pem(&self) -> Option<String> {
        self.authority.as_ref().map(|authority| authority.pem())
    }

    /// Another certificate, with one thing wrong, if the fault is about certificates.
    pub(super) fn flawed(&self, fault: TlsFault) -> Result<Option<TlsAcceptor>, TlsError> {
        let now = OffsetDateTime::now_utc();
        let day = Duration::days(1);
        let own = self.authority.as_ref();
        let usual = || leaf(&self.names, now);
        let shown = match fault {
            TlsFault::OldVersion => return Ok(None),
            TlsFault::Expired => {
                let mut expired = usual()?;
                expired.not_before = now - Duration::days(DAYS);
                expired.not_after = now - day;
                signed(&expired, own)?
            }
            TlsFault::NotYetValid => {
                let mut early = usual()?;
                early.not_before = now + day;
                signed(&early, own)?
            }
            TlsFault::SelfSigned => signed(&usual()?, None)?,
            TlsFault::UnknownAuthority => signed(&usual()?, Some(&authority(OTHER_AUTHORITY)?))?,
            TlsFault::WrongName => signed(&leaf(&[OTHER_NAME.to_owned()], now)?, own)?,
        };
        Ok(Some(shown))
    }
}

fn names(others: &[String]) -> Vec<String> {
    let own = NAMES.iter().map(|name| (*name).to_owned());
    own.chain(others.iter().cloned()).collect()
}

fn authority(name: &str) -> Result<Authority, TlsError> {
    let now = OffsetDateTime::now_utc();
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, name);
    // Clocks of containers may be a little behind.
    ca.not_before = now - Duration::days(1);
    ca.not_after = now + Duration::days(DAYS);
    Ok(CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?)
}

fn leaf(names: &[String], now: OffsetDateTime) -> Result<CertificateParams, TlsError> {
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "eventhubs-emulator");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // INTEROP: Python from 3.13 on wants it.
    leaf.use_authority_key_identifier_extension = true;
    leaf.not_before = now - Duration::days(1);
    leaf.not_after = now + Duration::days(DAYS);
    Ok(leaf)
}

/// Shows a certificate, signed by an authority or by itself.
fn signed(leaf: &CertificateParams, by: Option<&Authority>) -> Result<TlsAcceptor, TlsError> {
    let key = KeyPair::generate()?;
    let certificate = match by {
        Some(authority) => leaf.signed_by(&key, authority)?,
        None => leaf.self_signed(&key)?,
    };
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|text| rustls::Error::General(text.to_owned()))?;
    Ok(acceptor(vec![certificate.der().clone()], key)?)
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
