//! O12: trouble is answered by few retries. Each failure costs a token; tokens come back slowly, and with work.

use std::collections::BTreeMap;

use super::Broken;
use crate::history::{Happening, Member, Partition, Time};

/// Tokens in thousandths.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at: Time,
}

/// How many failures in a row are all right, and how many a second go on being so, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: u64,
    per_second: u64,
}

/// Listings of one processor: one that leaves looks four times a second, for up to 15 s.
const LISTINGS: Allowance = Allowance {
    burst: 80_000,
    per_second: 1_000,
};
/// Reads and writes of one partition's records.
const RECORDS: Allowance = Allowance {
    burst: 20_000,
    per_second: 1_000,
};
/// A handler call may ask for a checkpoint, which tries four times to write and looks after each.
const PER_CALL: u64 = 9_000;
/// Receivers for one partition.
const ATTACHES: Allowance = Allowance {
    burst: 12_000,
    per_second: 500,
};
const ONE: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Attach(Partition),
    Listing,
    Record(Partition),
}

/// What every processor of ours may still fail at.
#[derive(Debug, Default)]
pub(super) struct Storm {
    buckets: BTreeMap<(Member, Subject), Bucket>,
}

impl Storm {
    pub(super) fn apply(&mut self, now: Time, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::Asked {
                member,
                partition,
                is_answered: false,
                ..
            } => match partition {
                None => self.spend(now, *member, Subject::Listing, LISTINGS),
                Some(partition) => self.spend(now, *member, Subject::Record(*partition), RECORDS),
            },
            Happening::AttachFailed { member, partition } => {
                self.spend(now, *member, Subject::Attach(*partition), ATTACHES)
            }
            Happening::HandlerStarted {
                member, partition, ..
            } => {
                let bucket = (*member, Subject::Record(*partition));
                if let Some(bucket) = self.buckets.get_mut(&bucket) {
                    bucket.left += PER_CALL;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn spend(
        &mut self,
        now: Time,
        member: Member,
        subject: Subject,
        allowance: Allowance,
    ) -> Result<(), Broken> {
        let full = Bucket {
            left: allowance.burst,
            at: now,
        };
        let bucket = self.buckets.entry((member, subject)).or_insert(full);
        let gained = (now - bucket.at) * allowance.per_second / 1000;
        let most = allowance.burst.max(bucket.left);
        (bucket.left, bucket.at) = ((bucket.left + gained).min(most), now);
        match bucket.left.checked_sub(ONE) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err((
                "O12 storm",
                format!("{member} fails at {subject:?} too often"),
            )),
        }
    }
}
