//! Signatures made by foreign SDKs with the well-known key; none of them is made by our own code.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::{Method, Request};

use super::{super::WELL_KNOWN_KEY, *};

/// 2026-11-23T23:46:10Z.
const NOW: u64 = 1_795_477_570;

fn check(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    now: u64,
) -> Result<Grant, (ErrorCode, String)> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let method: Method = method.parse().unwrap();
    let target = Target::parse(&method, &parts.uri, "devstoreaccount1").unwrap();
    let gate = Gate {
        account: "devstoreaccount1",
        key: &AccountKey::from_base64(WELL_KNOWN_KEY).unwrap(),
        issuer: None,
        now: Some(UNIX_EPOCH + Duration::from_secs(now)),
    };
    gate.check(&parts, &target).map_err(|error| {
        let detail = error.details.first().map(|(_, text)| text.clone());
        (error.code, detail.unwrap_or_default())
    })
}

const SET_METADATA: &str = "/devstoreaccount1/con/ns/hub/$default/ownership/0?comp=metadata";

/// INTEROP: as sent by the Python checkpoint store 1.2.0 for a relinquished ownership.
fn python_headers() -> [(&'static str, &'static str); 8] {
    [
        (
            "Authorization",
            "SharedKey devstoreaccount1:8r0oUNitbkPtzRqRPE5lix/7wRz5PNHkHo5yppIzNFQ=",
        ),
        ("x-ms-date", "Mon, 23 Nov 2026 23:46:06 GMT"),
        ("x-ms-meta-ownerid", ""),
        ("If-Match", "\"0x8D\""),
        ("x-ms-version", "2025-01-05"),
        (
            "x-ms-client-request-id",
            "0d2c8604-e798-11f1-bd31-02fc00000001",
        ),
        ("Accept", "application/xml"),
        ("Content-Length", "0"),
    ]
}

#[test]
fn a_signature_of_the_python_sdk_is_accepted() {
    assert_eq!(
        check("PUT", SET_METADATA, &python_headers(), NOW),
        Ok(Grant::Full)
    );
    let list = "/devstoreaccount1/con?restype=container&comp=list\
                &prefix=ns/hub/%C3%A9%20$default/&include=metadata";
    let headers = [
        (
            "Authorization",
            "SharedKey devstoreaccount1:7p1xt2pZ7qIlqZWDJcYhkuH9WORSU4sapQe/2WCKl9k=",
        ),
        ("x-ms-date", "Mon, 23 Nov 2026 23:46:06 GMT"),
        ("x-ms-version", "2025-01-05"),
        (
            "x-ms-client-request-id",
            "0d2d9a08-e798-11f1-bd31-02fc00000001",
        ),
    ];
    assert_eq!(check("GET", list, &headers, NOW), Ok(Grant::Full));
}

#[test]
fn a_change_to_any_signed_part_is_refused() {
    let refused = |method, uri: &str, headers: &[(&str, &str)]| {
        let (code, _) = check(method, uri, headers, NOW).unwrap_err();
        assert_eq!(code, ErrorCode::AuthenticationFailed);
    };
    for changed in 0..7 {
        let mut headers = python_headers();
        if headers[changed].0 == "Accept" {
            continue;
        }
        headers[changed].1 = match headers[changed].0 {
            "x-ms-date" => "Mon, 23 Nov 2026 23:46:07 GMT",
            "Authorization" => "SharedKey devstoreaccount1:AAAA",
            _ => "changed",
        };
        refused("PUT", SET_METADATA, &headers);
    }
    let other = SET_METADATA.replace("ownership/0", "ownership/1");
    refused("PUT", &other, &python_headers());
    refused("GET", SET_METADATA, &python_headers());
    let renamed = python_headers().map(|(name, value)| match name {
        "Authorization" => (
            name,
            "SharedKey other:8r0oUNitbkPtzRqRPE5lix/7wRz5PNHkHo5yppIzNFQ=",
        ),
        _ => (name, value),
    });
    refused("PUT", SET_METADATA, &renamed);
}

#[test]
fn dates_may_be_a_quarter_of_an_hour_off() {
    for (now, accepted) in [
        (NOW + 890, true),
        (NOW + 900, false),
        (NOW - 900, true),
        (NOW - 910, false),
    ] {
        let answer = check("PUT", SET_METADATA, &python_headers(), now);
        assert_eq!(answer.is_ok(), accepted, "{now}");
    }
}

#[test]
fn malformed_authorization_is_refused_without_panic() {
    for text in [
        "",
        " ",
        "SharedKey",
        "SharedKey :",
        "SharedKey a:b:c",
        "Bearer x",
        "é",
    ] {
        let headers = [
            ("Authorization", text),
            ("x-ms-date", "Mon, 23 Nov 2026 23:46:06 GMT"),
        ];
        let (code, _) = check("PUT", SET_METADATA, &headers, NOW).unwrap_err();
        assert_eq!(code, ErrorCode::AuthenticationFailed, "{text}");
    }
}

#[test]
fn the_lite_scheme_signs_less() {
    // No SDK uses it for blobs any more, so this string is written from the reference.
    let date = "Mon, 23 Nov 2026 23:46:06 GMT";
    let text = format!(
        "PUT\n\n\n\nx-ms-date:{date}\nx-ms-meta-ownerid:\nx-ms-version:2021-12-02\n\
         /devstoreaccount1/devstoreaccount1/con/b?comp=metadata"
    );
    let key = STANDARD.decode(WELL_KNOWN_KEY).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(text.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let authorization = format!("SharedKeyLite devstoreaccount1:{signature}");
    let uri = "/devstoreaccount1/con/b?comp=metadata&timeout=5";
    let headers = |owner| {
        [
            ("authorization", authorization.as_str()),
            ("x-ms-date", date),
            ("x-ms-version", "2021-12-02"),
            ("x-ms-meta-ownerid", owner),
            ("if-match", "\"0x1\""),
        ]
    };
    assert_eq!(check("PUT", uri, &headers(""), NOW), Ok(Grant::Full));
    assert!(check("PUT", uri, &headers("me"), NOW).is_err());
}

/// INTEROP: made by `@azure/storage-blob` for the account, the container `con` and the blob
/// `a/$default/0`, with the three forms the string-to-sign has had; valid until 2030-01-02.
const JAVASCRIPT: [(&str, &str, &str); 3] = [
    (
        "sv=2018-03-28&ss=b&srt=sco&st=2020-01-01T00%3A00%3A00Z&se=2030-01-02T03%3A04%3A05Z\
         &sp=rwdlc&sig=MNXuPX8QrkQL7gODHxrJ7k9l0RR2sPkhZO46gJWHkxw%3D",
        "sv=2018-03-28&se=2030-01-02T03%3A04%3A05Z&sr=c&sp=rcwdl\
         &sig=Ck2QMwEVMJp29UIWvuQ4%2F5Mz8y4eeMy31uxvIA6cgX8%3D",
        "sv=2018-03-28&se=2030-01-02T03%3A04%3A05Z&sr=b&sp=rw\
         &sig=ipzEBDQVJtZ30n%2BfmrRLutdihg4D5KO%2BAQnpQ%2BTgtRk%3D",
    ),
    (
        "sv=2019-12-12&ss=b&srt=sco&st=2020-01-01T00%3A00%3A00Z&se=2030-01-02T03%3A04%3A05Z\
         &sp=rwdlc&sig=jnU%2FUXyrVQZ3Sx9rk3gdvgdzeGiJgsSWBZBwkm29nuE%3D",
        "sv=2019-12-12&se=2030-01-02T03%3A04%3A05Z&sr=c&sp=rcwdl\
         &sig=lhuppdAJlnPzwvUDnmKPUOua2MUY%2FyKukylznP5X%2BWs%3D",
        "sv=2019-12-12&se=2030-01-02T03%3A04%3A05Z&sr=b&sp=rw\
         &sig=g6OUs2eeLmRXcGSC4TMNEQjXTnAGN24J%2BRzJ9djPSMc%3D",
    ),
    (
        "sv=2021-12-02&ss=b&srt=sco&st=2020-01-01T00%3A00%3A00Z&se=2030-01-02T03%3A04%3A05Z\
         &sp=rwdlc&sig=fZbzznTJagZs55Qtrz%2BRK5xqK9CXUs09%2BlkOpiqtnpo%3D",
        "sv=2021-12-02&se=2030-01-02T03%3A04%3A05Z&sr=c&sp=rcwdl\
         &sig=GjsiGBcCJyoZPQf1XN4kl4WAD8%2FKw7m8qwJ%2FhVvCZRs%3D",
        "sv=2021-12-02&se=2030-01-02T03%3A04%3A05Z&sr=b&sp=rw\
         &sig=MQwWiDjHMN8XiYM4gzAg1vf%2F%2Bi7iL20ZfkbCkdiIwcc%3D",
    ),
];

const BLOB: &str = "/devstoreaccount1/con/a/%24default/0";
const LIST: &str = "/devstoreaccount1/con?restype=container&comp=list";

fn signed(method: &str, uri: &str, sas: &str, now: u64) -> Result<Grant, ErrorCode> {
    let joint = if uri.contains('?') { '&' } else { '?' };
    check(method, &format!("{uri}{joint}{sas}"), &[], now).map_err(|(code, _)| code)
}

#[test]
fn signatures_of_the_javascript_sdk_are_accepted() {
    for (account, container, blob) in JAVASCRIPT {
        for sas in [account, container] {
            assert_eq!(signed("PUT", BLOB, sas, NOW), Ok(Grant::Full), "{sas}");
            assert_eq!(signed("GET", LIST, sas, NOW), Ok(Grant::Full), "{sas}");
        }
        assert_eq!(signed("HEAD", BLOB, blob, NOW), Ok(Grant::Full), "{blob}");
        let delete = signed("DELETE", BLOB, blob, NOW);
        assert_eq!(delete, Err(ErrorCode::AuthorizationPermissionMismatch));
    }
}

#[test]
fn a_shared_access_signature_has_limits() {
    let (account, container, blob) = JAVASCRIPT[2];
    let denied = Err(ErrorCode::AuthenticationFailed);
    let in_2030 = 1_893_553_445;
    for sas in [account, container] {
        assert_eq!(signed("PUT", BLOB, sas, in_2030 - 1), Ok(Grant::Full));
        assert_eq!(signed("PUT", BLOB, sas, in_2030), denied, "expired");
    }
    let in_2019 = 1_577_836_799;
    assert_eq!(signed("PUT", BLOB, account, in_2019), denied, "not yet");
    assert_eq!(
        signed("PUT", BLOB, &account.replace("sp=r", "sp=ar"), NOW),
        denied
    );
    assert_eq!(
        signed("PUT", BLOB, &account.replace("2030", "2031"), NOW),
        denied
    );
    assert_eq!(signed("GET", LIST, blob, NOW), denied, "another resource");
    let other = "/devstoreaccount1/other/b";
    assert_eq!(signed("PUT", other, container, NOW), denied);
    let create = "/devstoreaccount1/con?restype=container";
    assert_eq!(signed("PUT", create, account, NOW), Ok(Grant::Full));
    let by_container = signed("PUT", create, container, NOW);
    assert_eq!(by_container, Err(ErrorCode::AuthorizationFailure));
}

#[test]
fn a_request_without_proof_is_told_what_is_missing() {
    let (code, _) = check("GET", LIST, &[], NOW).unwrap_err();
    assert_eq!(code, ErrorCode::NoAuthenticationInformation);
}

#[test]
fn a_key_is_never_shown() {
    let key = AccountKey::from_base64(WELL_KNOWN_KEY).unwrap();
    assert_eq!(format!("{key:?}"), "AccountKey(..)");
    assert!(AccountKey::from_base64("not base64!").is_err());
}
