//! Why TLS came to nothing, in words.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Names in a certificate that are worth repeating; a peer can put any number there.
const MAX_NAMES: usize = 4;
/// A host name is no longer (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

/// What is wrong with a certificate, if that is behind the error: the server's for `name`, or ours.
pub(crate) fn certificate_problem(error: &(dyn Error + 'static), name: &str) -> Option<String> {
    Some(match find(error)? {
        rustls::Error::InvalidCertificate(problem) => {
            format!(
                "the certificate of {name} is not accepted: {}",
                of_server(problem, name)
            )
        }
        rustls::Error::AlertReceived(alert) if is_about_ours(*alert) => {
            format!("{name} does not accept the client certificate, or wants one: {alert:?}")
        }
        _ => return None,
    })
}

fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // The source of such an error is that of the one inside, not the one inside.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn of_server(problem: &CertificateError, name: &str) -> String {
    match problem {
        CertificateError::UnknownIssuer => {
            "it comes from an authority that is not trusted".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let shown = presented.iter().take(MAX_NAMES).map(|name| readable(name));
            let shown = shown.collect::<Vec<_>>().join(", ");
            format!("it is not for {name} but for {shown}")
        }
        CertificateError::NotValidForName => format!("it is not for {name}"),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or the local clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or the local clock is wrong".to_owned()
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        other => other.to_string(),
    }
}

fn readable(name: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
    name.chars().filter(plain).take(MAX_NAME).collect()
}

fn is_about_ours(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::NoCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    fn told(error: rustls::Error) -> Option<String> {
        // As it comes out of a stream, and once more wrapped.
        let error = io::Error::other(io::Error::other(error));
        certificate_problem(&error, "host")
    }

    #[test]
    fn what_is_wrong_is_said() {
        let of = |problem| told(rustls::Error::InvalidCertificate(problem)).unwrap();
        assert!(of(CertificateError::UnknownIssuer).contains("not trusted"));
        assert!(of(CertificateError::NotValidForName).contains("not for host"));
        let other = of(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("host").unwrap(),
            presented: (0..9)
                .map(|n| format!("other{n}\n{}", "x".repeat(999)))
                .collect(),
        });
        assert!(other.contains("but for other0x"), "{other}");
        assert!(other.len() < 1200 && !other.contains('\n'), "{other}");
        assert!(of(CertificateError::Expired).contains("expired"));
    }

    #[test]
    fn a_refusal_of_ours_is_told_from_other_alerts() {
        let ours = told(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired,
        ));
        assert!(ours.unwrap().contains("client certificate"));
        let other = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
        assert_eq!(told(other), None);
        assert_eq!(certificate_problem(&io::Error::other("x"), "host"), None);
    }
}
