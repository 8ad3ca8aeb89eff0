//! The fuzz targets of connection strings and signatures.

use url::Url;

use super::sas::SharedAccessSignature;
use super::{EventHubsConnectionString, Secret, StorageConnectionString};

/// A connection string of Event Hubs is refused, or its parts can be used; neither way prints a secret.
pub(crate) fn event_hubs(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match EventHubsConnectionString::parse(text) {
        // Its type holds texts of ours only.
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(parsed) => {
            let host = parsed.host();
            assert!(!host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']));
            assert_eq!(host, host.to_ascii_lowercase());
            assert_ne!(parsed.port(), Some(0));
            let known = [
                host,
                &parsed.fully_qualified_namespace(),
                parsed.event_hub_name().unwrap_or_default(),
            ];
            hides(text, &format!("{parsed:?}"), &known);
        }
    }
}

/// As [`event_hubs`], for storage accounts.
pub(crate) fn storage(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match StorageConnectionString::parse(text) {
        // Its type holds texts of ours only.
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(parsed) => {
            match Url::parse(parsed.blob_endpoint()) {
                Ok(url) => {
                    assert!(matches!(url.scheme(), "http" | "https") && url.has_host());
                    assert!(url.query().is_none() && url.password().is_none());
                }
                Err(error) => panic!("{error}: {}", parsed.blob_endpoint()),
            }
            hides(text, &format!("{parsed:?}"), &[parsed.blob_endpoint()]);
        }
    }
}

/// A signature is refused, or has an end.
pub(crate) fn signature(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match SharedAccessSignature::parse(Secret::new(text)) {
        // Its type holds texts of ours only.
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(parsed) => {
            assert!(parsed.expires_at >= std::time::UNIX_EPOCH);
            assert!(text.starts_with("SharedAccessSignature "));
        }
    }
}

/// The debug form holds no key and no signature, unless it is also a name.
fn hides(text: &str, debug: &str, known: &[&str]) {
    for part in text.split(';') {
        let Some((key, value)) = part.split_once('=') else {
            continue;
        };
        let is_secret = ["sharedaccesskey", "accountkey", "sharedaccesssignature"]
            .contains(&key.trim().to_ascii_lowercase().as_str());
        let value = value.trim();
        let is_name = known.iter().any(|name| name.contains(value))
            || values(text).filter(|other| other.contains(value)).count() > 1;
        if is_secret && value.len() >= 24 && !is_name {
            assert!(!debug.contains(value), "{debug}");
        }
    }
}

/// Values too long to be a word of ours.
fn values(text: &str) -> impl Iterator<Item = &str> {
    text.split(';')
        .filter_map(|part| part.split_once('='))
        .map(|(_, value)| value.trim())
        .filter(|value| value.len() >= 24)
}
