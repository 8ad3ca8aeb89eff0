//! Blob names. Pure.
//!
//! PROTOCOL: `{namespace}/{event hub}/{consumer group}/ownership/{partition}` and `…/checkpoint/{partition}`,
//! as in the `BlobCheckpointStore` of every Azure SDK.

use super::{LegacyLayout, NameCase};
use crate::error::{StoreError, StoreErrorKind};
use crate::model::{GroupScope, PartitionId};

/// Longest name of a blob. PROTOCOL: "Naming containers, blobs and metadata" of the storage service.
const MAX_NAME: usize = 1024;

/// The consumer group that every event hub has.
const DEFAULT_GROUP: &str = "$Default";

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

    /// What all blobs of the group start with.
    pub(super) fn prefix(&self) -> &str {
        &self.group
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

    /// Where an event lies that could not be processed.
    ///
    /// INTEROP: a place of its own beside the two that the SDKs list, so that a container of checkpoints may hold it.
    pub(super) fn dead_letter(
        &self,
        partition_id: &PartitionId,
        sequence_number: i64,
    ) -> Result<String, StoreError> {
        let folder = under(format!("{}deadletter/", self.group), partition_id)?;
        let name = format!("{folder}/{sequence_number:020}");
        checked(name)
    }
}

/// The partition a listed blob is about; `None` for a directory or anything else that is no record.
pub(super) fn partition_of(prefix: &str, blob_name: &str) -> Option<PartitionId> {
    let rest = blob_name.strip_prefix(prefix)?;
    (!rest.is_empty() && !rest.contains('/')).then(|| PartitionId::new(rest))
}

/// Where other processors of the same group may keep their records: the names as they are spelled, in lower case,
/// and either with `$Default`, but for the spelling that this store uses.
///
/// INTEROP: `$Default` is what everybody calls the default group, and what the SDKs that do not fold names write; those
/// that do write `$default`.
pub(super) fn other_spellings(scope: &GroupScope, case: NameCase) -> Vec<GroupScope> {
    let used = match case {
        NameCase::Folded => scope.folded(),
        NameCase::Verbatim => scope.clone(),
    };
    let mut others = Vec::new();
    for spelling in [scope.clone(), scope.folded()] {
        let usual = GroupScope::new(
            spelling.fully_qualified_namespace(),
            spelling.event_hub_name(),
            DEFAULT_GROUP,
        );
        let is_default = scope.consumer_group().eq_ignore_ascii_case(DEFAULT_GROUP);
        for other in [Some(spelling), is_default.then_some(usual)]
            .into_iter()
            .flatten()
        {
            if other != used && !others.contains(&other) {
                others.push(other);
            }
        }
    }
    others
}

/// Builds the names of checkpoints of earlier generations.
#[derive(Debug)]
pub(super) struct LegacyNames {
    prefix: String,
}

impl LegacyNames {
    /// Fails with `InvalidValue` if a name could reach outside of its place in the path.
    pub(super) fn new(scope: &GroupScope, layout: &LegacyLayout) -> Result<Self, StoreError> {
        let prefix = match layout {
            LegacyLayout::AzureFunctions => BlobNames::new(scope, NameCase::Verbatim)?.group,
            LegacyLayout::EventProcessorHost { prefix } => {
                check_segment("consumer group", scope.consumer_group())?;
                format!("{prefix}{}/", scope.consumer_group())
            }
        };
        Ok(Self { prefix })
    }

    /// What all of them start with.
    pub(super) fn prefix(self) -> String {
        self.prefix
    }

    pub(super) fn checkpoint(self, partition_id: &PartitionId) -> Result<String, StoreError> {
        under(self.prefix, partition_id)
    }
}

/// Whether a text can be the beginning of a blob name.
pub(super) fn is_prefix(text: &str) -> bool {
    let (folders, last) = text
        .rsplit_once('/')
        .map_or((None, text), |(folders, last)| (Some(folders), last));
    let mut folders = folders.into_iter().flat_map(|folders| folders.split('/'));
    folders.all(|folder| check_segment("prefix", folder).is_ok())
        && (last.is_empty() || check_segment("prefix", last).is_ok())
}

fn under(mut prefix: String, partition_id: &PartitionId) -> Result<String, StoreError> {
    check_segment("partition id", partition_id.as_str())?;
    prefix.push_str(partition_id.as_str());
    checked(prefix)
}

fn checked(name: String) -> Result<String, StoreError> {
    if name.len() > MAX_NAME {
        return Err(StoreError::new(
            StoreErrorKind::InvalidValue,
            format!("the names make a blob name longer than {MAX_NAME} bytes"),
        ));
    }
    Ok(name)
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
    fn a_dead_letter_lies_in_the_order_of_the_partition_and_where_nobody_lists() {
        let names = BlobNames::new(&scope(), NameCase::Folded).unwrap();
        let letter = |number| names.dead_letter(&"3".into(), number).unwrap();
        assert_eq!(
            letter(4711),
            "contoso.servicebus.windows.net/myhub/$default/deadletter/3/00000000000000004711"
        );
        assert!(letter(9) < letter(10));
        assert!(letter(i64::MAX).ends_with("/09223372036854775807"));
        // Python, JS, .NET, Go and Rust list with these prefixes, Java with the first two in any spelling.
        for prefix in ["ownership", "checkpoint"] {
            let listed = format!("contoso.servicebus.windows.net/myhub/$default/{prefix}");
            assert!(!letter(1).starts_with(&listed));
        }
        // Those of earlier generations list the whole group, and take what lies directly below.
        assert_eq!(partition_of(names.prefix(), &letter(1)), None);
        assert!(names.dead_letter(&"../x".into(), 1).is_err());
        assert!(names.dead_letter(&"x".repeat(1000).into(), 1).is_err());
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

    #[test]
    fn other_spellings_are_those_that_other_sdks_use() {
        let spelled = |names: [&'static str; 3]| GroupScope::new(names[0], names[1], names[2]);
        let others = |names, case| other_spellings(&spelled(names), case);
        for (names, case, expected) in [
            // What most users write: only those who do not fold it are elsewhere.
            (
                ["ns", "hub", "$Default"],
                NameCase::Folded,
                vec![["ns", "hub", "$Default"]],
            ),
            (
                ["ns", "hub", "$default"],
                NameCase::Folded,
                vec![["ns", "hub", "$Default"]],
            ),
            (
                ["NS", "Hub", "$Default"],
                NameCase::Folded,
                vec![["NS", "Hub", "$Default"], ["ns", "hub", "$Default"]],
            ),
            (
                ["NS", "Hub", "$default"],
                NameCase::Folded,
                vec![
                    ["NS", "Hub", "$default"],
                    ["NS", "Hub", "$Default"],
                    ["ns", "hub", "$Default"],
                ],
            ),
            (["ns", "hub", "g"], NameCase::Folded, vec![]),
            (
                ["ns", "hub", "G"],
                NameCase::Folded,
                vec![["ns", "hub", "G"]],
            ),
            (
                ["ns", "hub", "G"],
                NameCase::Verbatim,
                vec![["ns", "hub", "g"]],
            ),
            (["ns", "hub", "g"], NameCase::Verbatim, vec![]),
            (
                ["ns", "hub", "$default"],
                NameCase::Verbatim,
                vec![["ns", "hub", "$Default"]],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(spelled).collect();
            assert_eq!(others(names, case), expected, "{names:?} {case:?}");
        }
    }

    #[test]
    fn legacy_names_keep_their_case() {
        let name = |layout: &LegacyLayout| {
            let names = LegacyNames::new(&scope(), layout).unwrap();
            names.checkpoint(&"0".into()).unwrap()
        };
        assert_eq!(
            name(&LegacyLayout::AzureFunctions),
            "Contoso.ServiceBus.windows.net/MyHub/$Default/0"
        );
        for (prefix, expected) in [
            ("", "$Default/0"),
            ("a-", "a-$Default/0"),
            ("A/b/", "A/b/$Default/0"),
        ] {
            let prefix = prefix.to_owned();
            assert_eq!(name(&LegacyLayout::EventProcessorHost { prefix }), expected);
        }
        let layout = LegacyLayout::EventProcessorHost {
            prefix: String::new(),
        };
        let outside = GroupScope::new("n", "h", "../g");
        assert!(LegacyNames::new(&outside, &layout).is_err());
        assert!(
            LegacyNames::new(&scope(), &layout)
                .unwrap()
                .checkpoint(&"..".into())
                .is_err()
        );
    }

    #[test]
    fn a_prefix_stays_inside_of_the_container() {
        for good in ["", "a", "a/", "a/b-", "A b/"] {
            assert!(is_prefix(good), "{good:?}");
        }
        for bad in ["/", "/a", "a//b", "../", "a/../", "a\\b", "a\n/"] {
            assert!(!is_prefix(bad), "{bad:?}");
        }
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
