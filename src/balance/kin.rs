//! Owner ids that make a promise: how our own processors know one another.
//!
//! `rs1-25000-6f0c…` says: this owner follows the rules of this module, renews at least one of its records all the
//! time, and may be taken for dead after 25000 ms of silence. `rs1-0-6f0c…` says: the owner is leaving, its partition is
//! waiting for one of its kind. Every other SDK compares owner ids and nothing more, so to them both are names.
//!
//! The promise stands in the id, and not in the options of whoever reads it, so that processors with different
//! intervals share a group without robbing each other.

use std::time::Duration;

use crate::model::OwnerId;

const MARKER: &str = "rs1-";

/// The owner id with which a processor called `name` promises to show life more often than every `suspect_time`.
pub(crate) fn kin_id(suspect_time: Duration, name: &str) -> OwnerId {
    OwnerId::from(format!("{MARKER}{}-{name}", suspect_time.as_millis()))
}

/// The silence after which an owner may be taken for dead, if its id says so. Zero: it is leaving.
pub(crate) fn promised_suspect_time(owner_id: &OwnerId) -> Option<Duration> {
    let (milliseconds, _) = parts(owner_id)?;
    Some(Duration::from_millis(milliseconds))
}

/// The id under which an owner keeps its partitions while it leaves. `None` if nobody would understand it.
pub(crate) fn leaving_id(owner_id: &OwnerId) -> Option<OwnerId> {
    let (_, name) = parts(owner_id)?;
    Some(kin_id(Duration::ZERO, name))
}

fn parts(owner_id: &OwnerId) -> Option<(u64, &str)> {
    let text = owner_id.as_str();
    let marker = text.get(..MARKER.len())?;
    if !marker.eq_ignore_ascii_case(MARKER) {
        return None;
    }
    let (milliseconds, name) = text[MARKER.len()..].split_once('-')?;
    // `parse` would take a sign.
    if name.is_empty() || !milliseconds.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((milliseconds.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_survives_the_way_through_a_record_in_any_case() {
        let id = kin_id(Duration::from_secs(25), "A-1");
        assert_eq!(id.as_str(), "rs1-25000-A-1");
        let shouted = OwnerId::from(id.as_str().to_ascii_uppercase());
        assert_eq!(
            promised_suspect_time(&shouted),
            Some(Duration::from_secs(25))
        );
        let leaving = leaving_id(&id).unwrap();
        assert_eq!(leaving.as_str(), "rs1-0-A-1");
        assert_eq!(promised_suspect_time(&leaving), Some(Duration::ZERO));
    }

    #[test]
    fn other_names_promise_nothing() {
        for id in [
            "",
            "rs1-",
            "rs1-25000",
            "rs1-25000-",
            "rs1-+5-a",
            "rs1--a",
            "rs1-99999999999999999999999-a",
            "rs2-25000-a",
            "6f0c2f3e-0000-4000-8000-000000000000",
            "rß1-25000-a",
        ] {
            assert_eq!(promised_suspect_time(&id.into()), None, "{id}");
            assert_eq!(leaving_id(&id.into()), None, "{id}");
        }
    }
}
