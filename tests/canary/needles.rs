//! What is looked for, in all the forms in which it could show.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What no text may contain that is not a secret of a test, but can only be part of one.
const MARKS: [&str; 9] = [
    "sig=",
    "sig%3D",
    "sig%3d",
    // The first, in hexadecimal and as bytes.
    "7369673d",
    "115, 105, 103, 61",
    "73, 69, 67, 3d",
    "SharedKey devstoreaccount1:",
    "SharedAccessSignature sr=",
    "SharedAccessSignature%20sr%3D",
];

/// A text by which a secret is known, and the forms of it.
pub(crate) struct Needles {
    what: String,
    forms: Vec<String>,
}

impl Needles {
    pub(crate) fn of(what: &str, secret: &str) -> Self {
        let bytes = secret.as_bytes();
        let list = |item: fn(&mut String, u8), separator: &str| {
            let mut text = String::new();
            for byte in bytes {
                if !text.is_empty() {
                    text.push_str(separator);
                }
                item(&mut text, *byte);
            }
            text
        };
        let hex = list(|text, byte| write!(text, "{byte:02x}").unwrap(), "");
        let mut forms = vec![
            secret.to_owned(),
            utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
            hex.to_uppercase(),
            hex,
            // `Debug` of bytes.
            list(|text, byte| write!(text, "{byte}").unwrap(), ", "),
            list(|text, byte| write!(text, "{byte:x}").unwrap(), ", "),
            format!("{secret:?}").trim_matches('"').to_owned(),
        ];
        // In the midst of something longer it may begin at any of three places in a group, and its ends are mixed with what
        // is around it.
        for shift in 0..3 {
            for engine in [STANDARD, URL_SAFE] {
                let padded = [&b"~~"[..shift], bytes, b"~~"].concat();
                let text = engine.encode(padded);
                let skipped = (shift * 8).div_ceil(6);
                let len = (bytes.len() * 8 - (skipped * 6 - shift * 8)) / 6;
                forms.push(text[skipped..skipped + len].to_owned());
            }
        }
        // The key itself, if the secret is the text of one.
        if let Ok(key) = STANDARD.decode(secret) {
            forms.push(String::from_utf8_lossy(&key).into_owned());
        }
        forms.sort_unstable();
        forms.dedup();
        Self {
            what: what.to_owned(),
            forms,
        }
    }
}

/// What shows in a text that must not; each with the line it shows in, cut off before it.
pub(crate) fn shown(needles: &[Needles], text: &str) -> Vec<String> {
    let mut shown = Vec::new();
    let mut look = |what: &str, form: &str, found: &dyn Fn(&str) -> bool| {
        let mut matches = text.match_indices(form);
        if let Some((at, _)) = matches.find(|(at, _)| found(&text[at + form.len()..])) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            shown.push(format!("{what} behind: {}", &text[line..at]));
        }
    };
    for needle in needles {
        for form in &needle.forms {
            look(&needle.what, form, &|_| true);
        }
    }
    for mark in MARKS {
        // Texts of errors say what is expected, and others where they left something out.
        look(mark, mark, &|behind| {
            !behind.starts_with('…') && !behind.starts_with("REDACTED")
        });
    }
    shown
}

#[test]
fn no_form_is_missed() {
    let secret = "canary/of+the=test?";
    let needles = [Needles::of("it", secret)];
    assert_eq!(shown(&needles, "nothing of the kind"), Vec::<String>::new());
    for prefix in ["", "a", "ab", "abc"] {
        for suffix in ["", "z", "yz"] {
            let around = format!("{prefix}{secret}{suffix}");
            for form in [
                around.clone(),
                STANDARD.encode(&around),
                URL_SAFE.encode(&around),
                utf8_percent_encode(&around, NON_ALPHANUMERIC).to_string(),
                format!("{:?}", around.as_bytes()),
                format!("{:02x?}", around.as_bytes()),
                format!("{around:?}"),
            ] {
                let line = format!("first\nsecond {form}");
                assert_eq!(shown(&needles, &line).len(), 1, "{form}");
            }
        }
    }
    let key = STANDARD.encode("the key itself, in bytes");
    let needles = [Needles::of("key", &key)];
    assert_eq!(shown(&needles, "has the key itself, in bytes").len(), 1);
    assert_eq!(shown(&[], "https://a/b?sv=1&sig=x").len(), 1);
}
