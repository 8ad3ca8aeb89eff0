//! The `key=value;key=value` grammar that both kinds of connection string share.

pub use crate::error::ConnectionStringError;

/// More than any real connection string; a longer one is a mistake or an attack.
const MAX_LEN: usize = 4096;

/// Splits a connection string into its fields.
///
/// A value runs from the first `=` to the next `;`, so base64 keys that end in `==` and signatures with
/// inner `=` survive. Keys are matched without regard to ASCII case; `fields` lists those that are known
/// (others are ignored, as every SDK but Java does). An empty part (`;;`, a trailing `;`) is skipped.
pub(super) fn parse<const N: usize>(
    text: &str,
    fields: [&'static str; N],
) -> Result<[Option<String>; N], ConnectionStringError> {
    if text.len() > MAX_LEN {
        return Err(ConnectionStringError::TooLong { limit: MAX_LEN });
    }
    if text.trim().is_empty() {
        return Err(ConnectionStringError::Empty);
    }
    let mut values = [const { None }; N];
    for (index, part) in text.split(';').enumerate() {
        if part.trim().is_empty() {
            continue;
        }
        let (key, value) = part
            .split_once('=')
            .ok_or(ConnectionStringError::NotAPair { index: index + 1 })?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(ConnectionStringError::NotAPair { index: index + 1 });
        }
        let Some(slot) = fields
            .iter()
            .position(|field| field.eq_ignore_ascii_case(key))
        else {
            continue;
        };
        let field = fields[slot];
        if value.is_empty() {
            return Err(ConnectionStringError::EmptyValue { field });
        }
        if values[slot].replace(value.to_owned()).is_some() {
            return Err(ConnectionStringError::Duplicate { field });
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_keep_inner_and_trailing_equals_signs() {
        let [key, sas] = parse("Key=YWJjZA==;SAS=sr=a&sig=b%3D&se=1;", ["Key", "SAS"]).unwrap();
        assert_eq!(key.as_deref(), Some("YWJjZA=="));
        assert_eq!(sas.as_deref(), Some("sr=a&sig=b%3D&se=1"));
    }

    #[test]
    fn keys_match_in_any_case_and_unknown_ones_are_ignored() {
        let [key] = parse("kEY=v;Other=x", ["Key"]).unwrap();
        assert_eq!(key.as_deref(), Some("v"));
    }

    #[test]
    fn mistakes_name_the_field() {
        use ConnectionStringError as E;
        assert_eq!(parse("  ", ["Key"]), Err(E::Empty));
        assert_eq!(parse("Key=a;junk", ["Key"]), Err(E::NotAPair { index: 2 }));
        assert_eq!(parse("=a", ["Key"]), Err(E::NotAPair { index: 1 }));
        assert_eq!(parse("Key=", ["Key"]), Err(E::EmptyValue { field: "Key" }));
        assert_eq!(
            parse("Key=a;KEY=b", ["Key"]),
            Err(E::Duplicate { field: "Key" })
        );
        assert_eq!(
            parse(&"x".repeat(5000), ["Key"]),
            Err(E::TooLong { limit: 4096 })
        );
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,200}") {
            let _ = parse(&text, ["Endpoint", "Key"]);
        }
    }
}
