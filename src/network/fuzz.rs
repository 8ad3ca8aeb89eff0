//! The fuzz targets of the way: what proxies and gateways answer, and the addresses of proxies.

use std::io::ErrorKind;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt as _;
use hyper_util::client::proxy::matcher::Matcher;

use super::head::{Head, MAX_BYTES, MAX_HEADERS};
use super::proxy::{HttpProxy, Scheme, intercept, is_host};
use super::tunnel;
use crate::credential::Secret;

const SERVICE: &str = "contoso.servicebus.windows.net";

/// The head of an answer is read to its end and not a byte further, or refused; written anew, it is read as the same.
pub(crate) fn head(data: &[u8]) {
    let mut rest = data;
    let Some(read) = Head::read(&mut rest).now_or_never() else {
        panic!("waits for what is there");
    };
    let used = &data[..data.len() - rest.len()];
    assert!(used.len() <= MAX_BYTES);
    let head = match read {
        Ok(head) => head,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return assert!(rest.is_empty()),
        Err(error) => return assert_eq!(error.kind(), ErrorKind::InvalidData),
    };
    // The first empty line is the end, also for those to whom a line needs no carriage return.
    let lines = used.split(|byte| *byte == b'\n');
    let empty = lines
        .filter(|line| line.is_empty() || *line == b"\r")
        .count();
    assert!(used.ends_with(b"\r\n\r\n") && empty == 2, "{empty}");
    assert!(head.status < 1000 && head.headers.len() <= MAX_HEADERS);
    let mut again = format!("HTTP/1.1 {:03} \r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        assert!(!value.contains(&b'\n') && !value.contains(&b'\r'));
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        for part in [name.as_bytes(), b":", value, b"\r\n"] {
            again.extend_from_slice(part);
        }
    }
    again.extend_from_slice(b"\r\n");
    assert_eq!(Head::parse(&again).ok().as_ref(), Some(&head));

    let proxy = HttpProxy::new("http://canary:canary@proxy:1").unwrap_or_else(|e| panic!("{e}"));
    let judged = tunnel::judge(head.status, &proxy);
    assert_eq!(judged.is_ok(), head.status / 100 == 2);
    if let Err(refusal) = judged {
        assert!(!format!("{refusal} {refusal:?}").contains("canary"));
    }
}

/// The address of a proxy, what `NO_PROXY` says, and a host to reach, a line each: an address is refused, or names a host,
/// and is the same read again; the environment means what is given as an address; nothing prints a password.
pub(crate) fn proxy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let [address, exempt, host] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let address = address.trim();
    let given = HttpProxy::new(address);
    let everywhere = Matcher::builder().all(address).build();
    let found = intercept(&everywhere, SERVICE, 5671);
    match given {
        Ok(given) => {
            sound(&given);
            assert_eq!(found, Some(given));
        }
        Err(error) => {
            // Its type holds texts of ours only.
            assert!(!error.to_string().is_empty());
            let is_usable =
                |found: &HttpProxy| found.scheme() != Scheme::Unsupported && is_host(found.host());
            assert!(!found.is_some_and(|found| is_usable(&found)));
        }
    }
    let somewhere = Matcher::builder().all(address).no(exempt).build();
    let chosen = intercept(&somewhere, host, 443);
    if let Some(chosen) = &chosen {
        assert_eq!(Some(chosen), intercept(&everywhere, host, 443).as_ref());
    }
    let nowhere = Matcher::builder().all(address).no("*").build();
    assert_eq!(intercept(&nowhere, SERVICE, 443), None);
}

fn sound(proxy: &HttpProxy) {
    let host = proxy.host();
    let is_foreign = |c: char| c.is_control() || " /@?#[]".contains(c);
    assert!(!host.is_empty() && !host.contains(is_foreign), "{host}");
    let again = HttpProxy::new(&proxy.url()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.scheme(), proxy.scheme());
    assert_eq!((again.host(), again.port()), (host, proxy.port()));
    assert_eq!(again.authorization().map(Secret::expose), None);
    let Some(basic) = proxy.authorization() else {
        return;
    };
    assert!(proxy.header().is_some_and(|value| value.is_sensitive()));
    let encoded = basic.expose().strip_prefix("Basic ").unwrap_or_default();
    let pair = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    let printed = format!("{proxy} {proxy:?} {}", proxy.url());
    assert!(encoded.len() < 12 || !printed.contains(encoded));
    let Ok(pair) = String::from_utf8(pair) else {
        return;
    };
    let Some((user, password)) = pair.split_once(':') else {
        panic!("credentials without a colon");
    };
    assert_eq!(&again.with_credentials(user, password), proxy);
    for secret in [user, password] {
        // Shorter ones may be words of ours.
        assert!(secret.len() < 12 || host.contains(secret) || !printed.contains(secret));
    }
}
