//! `Authorization: SharedKey` and `SharedKeyLite`.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderName, header, request::Parts};

use super::{super::request::Target, Gate, StorageError};

/// PROTOCOL: a request must be younger than this.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// PROTOCOL: the signed headers, in the order of the string-to-sign (2009-09-19 and later).
const STANDARD_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

pub(super) fn check(
    gate: &Gate<'_>,
    parts: &Parts,
    target: &Target,
    authorization: &str,
) -> Result<(), StorageError> {
    let (scheme, credential) = authorization.split_once(' ').unwrap_or((authorization, ""));
    let (account, signature) = credential
        .trim()
        .split_once(':')
        .unwrap_or((credential, ""));
    check_date(gate, parts)?;
    let text = match scheme {
        "SharedKey" => full_string(gate.account, parts, target),
        "SharedKeyLite" => lite_string(gate.account, parts, target),
        _ => {
            let reason = format!("The authorization scheme '{scheme}' is not supported.");
            return Err(StorageError::unauthenticated(reason));
        }
    };
    if account != gate.account || !gate.key.verifies(&text, signature) {
        // The service shows the string it signed; that is how people find what they got wrong.
        return Err(StorageError::unauthenticated(format!(
            "The MAC signature found in the HTTP request '{signature}' is not the same as any \
             computed signature. Server used following string to sign: '{}'.",
            String::from_utf8_lossy(&text)
        )));
    }
    Ok(())
}

fn check_date(gate: &Gate<'_>, parts: &Parts) -> Result<(), StorageError> {
    let Some(now) = gate.now else {
        return Ok(());
    };
    let sent = parts
        .headers
        .get("x-ms-date")
        .or_else(|| parts.headers.get(header::DATE))
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let Ok(date) = httpdate::parse_http_date(sent) else {
        let reason = format!("Request date header '{sent}' is missing or not a date.");
        return Err(StorageError::unauthenticated(reason));
    };
    if distance(now, date) > MAX_SKEW {
        let reason = format!("Request date header too old: '{sent}'");
        return Err(StorageError::unauthenticated(reason));
    }
    Ok(())
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|early| early.duration())
}

fn full_string(account: &str, parts: &Parts, target: &Target) -> Vec<u8> {
    let mut text = parts.method.as_str().as_bytes().to_vec();
    let version = header_bytes(parts, "x-ms-version");
    let has_own_date = parts.headers.contains_key("x-ms-date");
    for name in STANDARD_HEADERS {
        text.push(b'\n');
        let value = header_bytes(parts, name);
        // PROTOCOL: since 2015-02-21 a zero length is signed as nothing; `Date` is signed as
        // nothing when `x-ms-date` stands in for it.
        let is_zero_length = name == "content-length"
            && value == b"0"
            && (version.is_empty() || version.as_slice() >= b"2015-02-21".as_slice());
        let is_replaced_date = name == "date" && has_own_date;
        if !is_zero_length && !is_replaced_date {
            text.extend(value);
        }
    }
    text.push(b'\n');
    append_own_headers(&mut text, parts, &version);
    append_path(&mut text, account, parts);
    let mut names: Vec<String> = target
        .query_pairs()
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut values: Vec<&str> = target
            .query_pairs()
            .iter()
            .filter(|(other, _)| other.to_lowercase() == name)
            .map(|(_, value)| value.as_str())
            .collect();
        values.sort_unstable();
        text.extend(format!("\n{name}:{}", values.join(",")).into_bytes());
    }
    text
}

fn lite_string(account: &str, parts: &Parts, target: &Target) -> Vec<u8> {
    let mut text = parts.method.as_str().as_bytes().to_vec();
    for name in ["content-md5", "content-type", "date"] {
        text.push(b'\n');
        if !(name == "date" && parts.headers.contains_key("x-ms-date")) {
            text.extend(header_bytes(parts, name));
        }
    }
    text.push(b'\n');
    append_own_headers(&mut text, parts, &header_bytes(parts, "x-ms-version"));
    append_path(&mut text, account, parts);
    if let Some(comp) = target.query("comp") {
        text.extend(format!("?comp={comp}").into_bytes());
    }
    text
}

fn append_own_headers(text: &mut Vec<u8>, parts: &Parts, version: &[u8]) {
    let mut names: Vec<&str> = parts
        .headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.starts_with("x-ms-"))
        .collect();
    names.sort_unstable();
    for name in names {
        let value = header_bytes(parts, name);
        // PROTOCOL: before 2016-05-31 headers without a value were left out.
        if value.is_empty() && !version.is_empty() && version < b"2016-05-31".as_slice() {
            continue;
        }
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend(value);
        text.push(b'\n');
    }
}

/// PROTOCOL: the path is signed as sent, and path-style addressing has the account in it already:
/// `/account/account/container/blob`.
fn append_path(text: &mut Vec<u8>, account: &str, parts: &Parts) {
    text.push(b'/');
    text.extend_from_slice(account.as_bytes());
    text.extend_from_slice(parts.uri.path().as_bytes());
}

fn header_bytes(parts: &Parts, name: &str) -> Vec<u8> {
    let values: Vec<&[u8]> = parts
        .headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes().trim_ascii())
        .collect();
    values.join(b",".as_slice())
}
