//! Blob names. Pure.
//!
//! PROTOCOL: `{namespace}/{event hub}/{consumer group}/ownership/{partition}` and `…/checkpoint/{partition}`,
//! as in the `BlobCheckpointStore` of every Azure SDK.

use super::NameCase;
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{GroupScope, PartitionId};

/// Longest name of a blob. PROTOCOL: "Naming containers, blobs and metadata" of the storage service.
const MAX_NAME: usize = 1024;

/// Builds and reads the names under one consumer group.
#[derive(Debug)]
pub(super) struct BlobNames {
    group: String,
}

impl BlobNames {
    /// Fails with `InvalidValue` if a name could reach outside of its place in the path.
    pub(super) fn new(scope: &GroupScope, case: NameCase) -> Result<Self, StoreError> {
        let segments = [
            ("namespace", scope.fully_qualified_namespace()),
            ("event hub name", scope.event_hub_name()),
            ("consumer group", scope.consumer_group()),
        ];
        let mut group = String::new();
        for (what, segment) in segments {
            check_segment(what, segment)?;
            group.push_str(segment);
            group.push('/');
        }
        if case == NameCase::Folded {
            group.make_ascii_lowercase();
        }
        Ok(Self { group })
    }

    /// What all ownership blobs start with.
    ///
    /// INTEROP: with the slash at its end. Without it, accounts with a hierarchical namespace list the
    /// directory itself as a record.
    pub(super) fn ownership_prefix(&self) -> String {
        format!("{}ownership/", self.group)
    }

    /// What all checkpoint blobs start with.
    pub(super) fn checkpoint_prefix(&self) -> String {
        format!("{}checkpoint/", self.group)
    }

    pub(super) fn ownership(&self, partition_id: &PartitionId) -> Result<String, StoreError> {
        under(self.ownership_prefix(), partition_id)
    }

    pub(super) fn checkpoint(&self, partition_id: &PartitionId) -> Result<String, StoreError> {
        under(self.checkpoint_prefix(), partition_id)
    }
}

/// The partition a listed blob is about; `None` for a directory or anything else that is no record.
pub(super) fn partition_of(prefix: &str, blob_name: &str) -> Option<PartitionId> {
    let rest = blob_name.strip_prefix(prefix)?;
    (!rest.is_empty() && !rest.contains('/')).then(|| PartitionId::new(rest))
}

/// Whether folding changes any of the names, so that a store in the other case looks elsewhere.
pub(super) fn has_capitals(scope: &GroupScope) -> bool {
    [
        scope.fully_qualified_namespace(),
        scope.event_hub_name(),
        scope.consumer_group(),
    ]
    .iter()
    .any(|name| name.bytes().any(|byte| byte.is_ascii_uppercase()))
}

fn under(mut prefix: String, partition_id: &PartitionId) -> Result<String, StoreError> {
    check_segment("partition id", partition_id.as_str())?;
    prefix.push_str(partition_id.as_str());
    if prefix.len() > MAX_NAME {
        return Err(StoreError::new(
            StoreErrorKind::InvalidValue,
            format!("the names make a blob name longer than {MAX_NAME} bytes"),
        ));
    }
    Ok(prefix)
}

/// The client encodes everything else (`%`, `?`, `#`, spaces), so only what has a meaning inside of a path is
/// refused: separators, dot segments and control characters.
fn check_segment(what: &str, segment: &str) -> Result<(), StoreError> {
    let reason = if segment.is_empty() {
        "is empty"
    } else if matches!(segment, "." | "..") {
        "is a dot segment"
    } else if segment.contains(['/', '\\']) {
        "contains a path separator"
    } else if segment.chars().any(char::is_control) {
        "contains a control character"
    } else if segment.len() > MAX_NAME {
        "is too long"
    } else {
        return Ok(());
    };
    Err(StoreError::new(
        StoreErrorKind::InvalidValue,
        format!("the {what} {reason}"),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope() -> GroupScope {
        GroupScope::new("Contoso.ServiceBus.windows.net", "MyHub", "$Default")
    }

    #[test]
    fn names_are_those_of_the_other_sdks() {
        let names = BlobNames::new(&scope(), NameCase::Folded).unwrap();
        assert_eq!(
            names.ownership(&"0".into()).unwrap(),
            "contoso.servicebus.windows.net/myhub/$default/ownership/0"
        );
        assert_eq!(
            names.checkpoint(&"0".into()).unwrap(),
            "contoso.servicebus.windows.net/myhub/$default/checkpoint/0"
        );
        let names = BlobNames::new(&scope(), NameCase::Verbatim).unwrap();
        assert_eq!(
            names.ownership_prefix(),
            "Contoso.ServiceBus.windows.net/MyHub/$Default/ownership/"
        );
    }

    #[test]
    fn the_partition_id_keeps_its_case() {
        let names = BlobNames::new(&scope(), NameCase::Folded).unwrap();
        assert!(names.ownership(&"P0".into()).unwrap().ends_with("/P0"));
    }

    #[test]
    fn only_direct_children_of_the_prefix_are_records() {
        let prefix = "ns/hub/g/ownership/";
        assert_eq!(
            partition_of(prefix, "ns/hub/g/ownership/12"),
            Some("12".into())
        );
        for other in [
            "ns/hub/g/ownership/",
            "ns/hub/g/ownership",
            "ns/hub/g/ownership/1/2",
            "ns/hub/g/checkpoint/1",
            "",
        ] {
            assert_eq!(partition_of(prefix, other), None, "{other}");
        }
    }

    #[test]
    fn names_that_mean_something_in_a_path_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb"] {
            for scope in [
                GroupScope::new(bad, "h", "g"),
                GroupScope::new("n", bad, "g"),
                GroupScope::new("n", "h", bad),
            ] {
                let error = BlobNames::new(&scope, NameCase::Folded).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::InvalidValue, "{bad:?}");
            }
            let names = BlobNames::new(&scope(), NameCase::Folded).unwrap();
            assert!(names.ownership(&bad.into()).is_err(), "{bad:?}");
        }
        let names = BlobNames::new(&scope(), NameCase::Folded).unwrap();
        assert!(names.ownership(&"x".repeat(1024).into()).is_err());
    }

    proptest! {
        #[test]
        fn a_name_stays_under_its_prefix_and_reads_back(
            ns in "\\PC{0,12}", hub in "\\PC{0,12}", group in "\\PC{0,12}", id in "\\PC{0,12}",
        ) {
            let scope = GroupScope::new(ns, hub, group);
            let Ok(names) = BlobNames::new(&scope, NameCase::Folded) else { return Ok(()) };
            let id = PartitionId::new(id);
            let Ok(name) = names.ownership(&id) else { return Ok(()) };
            prop_assert_eq!(name.split('/').count(), 5);
            prop_assert!(!name.split('/').any(|segment| matches!(segment, "" | "." | "..")));
            prop_assert_eq!(partition_of(&names.ownership_prefix(), &name), Some(id));
        }
    }
}
