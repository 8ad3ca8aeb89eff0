//! Which container and blob names the service takes.

use percent_encoding::percent_decode_str;

use super::errors::{ErrorCode, StorageError};

/// PROTOCOL: a blob name has 1 to 1,024 characters.
const MAX_BLOB_NAME: usize = 1024;

/// Checks a container name.
pub(crate) fn check_container(name: &str) -> Result<(), StorageError> {
    if matches!(name, "$root" | "$web" | "$logs") {
        return Ok(());
    }
    if !(3..=63).contains(&name.chars().count()) {
        return Err(ErrorCode::ResourceNameLength.into());
    }
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Err(ErrorCode::InvalidResourceName.into());
    }
    Ok(())
}

/// Checks a decoded blob name.
pub(crate) fn check_blob(name: &str) -> Result<(), StorageError> {
    if name.is_empty() || name.chars().count() > MAX_BLOB_NAME {
        return Err(ErrorCode::ResourceNameLength.into());
    }
    Ok(())
}

/// Decodes one part of a URL path, once.
///
/// INTEROP: azure_storage_blob 1.1 sends `/` inside a name as `%2F`, azure_storage_blobs 0.21 and
/// the Python client send it raw; both mean the same blob. A name that holds a literal `%2F`
/// arrives as `%252F` and must not be decoded a second time.
pub(crate) fn decode_path_part(part: &str) -> Result<String, StorageError> {
    percent_decode_str(part)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| ErrorCode::InvalidUri.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names_follow_the_dns_rules() {
        for good in ["abc", "a-b-c", "0checkpoints", "$root", &"a".repeat(63)] {
            assert!(check_container(good).is_ok(), "{good}");
        }
        for bad in [
            "ab",
            "Abc",
            "a--b",
            "-ab",
            "ab-",
            "a_b",
            "a.b",
            &"a".repeat(64),
        ] {
            assert!(check_container(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blob_names_are_counted_in_characters() {
        assert!(check_blob(&"é".repeat(1024)).is_ok());
        assert!(check_blob(&"é".repeat(1025)).is_err());
        assert!(check_blob("").is_err());
    }

    #[test]
    fn a_path_is_decoded_exactly_once() {
        assert_eq!(decode_path_part("a%2Fb/%24c").unwrap(), "a/b/$c");
        assert_eq!(decode_path_part("a%252Fb+c").unwrap(), "a%2Fb+c");
        assert!(decode_path_part("%FF").is_err());
    }
}
