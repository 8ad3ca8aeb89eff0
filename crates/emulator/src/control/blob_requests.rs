//! Orders for the blob side as they come over the control port.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::requests::once;
use crate::amqp::fault_kinds::millis;
use crate::blob::{BlobAccount, BlobOperation};
use crate::emulator::BlobFaults;

/// Blobs one order may put: more than a page of a listing holds, several times over.
const MAX_BLOBS: u32 = 20_000;
/// Bytes a replaced body may have.
const MAX_BODY: usize = 256 << 20;

/// An order with the requests it is about: all without. Flat on the wire.
#[derive(Debug)]
pub(super) struct BlobOrder {
    requests: Requests,
    fault: BlobFault,
}

/// Which requests a fault is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requests {
    operation: Option<BlobOperation>,
    name_contains: Option<String>,
    after: u32,
    chance: Option<f64>,
}

impl Requests {
    const FIELDS: [&str; 4] = ["operation", "name_contains", "after", "chance"];

    fn is_given(&self) -> bool {
        let is_narrowed = self.operation.is_some() || self.name_contains.is_some();
        is_narrowed || self.after > 0 || self.chance.is_some()
    }
}

impl<'de> Deserialize<'de> for BlobOrder {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        // Serde can flatten, or refuse fields it does not know, but not both.
        let mut fields = serde_json::Map::deserialize(from)?;
        let given = Requests::FIELDS
            .into_iter()
            .filter_map(|name| fields.remove_entry(name))
            .collect::<serde_json::Map<_, _>>();
        let requests: Requests = serde_json::from_value(given.into()).map_err(D::Error::custom)?;
        let fault: BlobFault = serde_json::from_value(fields.into()).map_err(D::Error::custom)?;
        if !fault.is_about_requests() && requests.is_given() {
            let names = Requests::FIELDS.join(", ");
            return Err(D::Error::custom(format!("{names} are not for this fault")));
        }
        Ok(Self { requests, fault })
    }
}

/// A fault of the blob side: a method of [`BlobFaults`] by name, with its arguments, or a change of
/// what is stored.
#[derive(Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
enum BlobFault {
    ApplyTwice(Times),
    /// For the next `times` requests, or until cleared.
    Delay {
        #[serde(with = "millis")]
        delay_ms: Duration,
        times: Option<u32>,
    },
    DeleteBlob {
        container: String,
        name: String,
    },
    DeleteContainer {
        container: String,
    },
    DropReplyAfterApply(Times),
    DropRequest(Times),
    EditHeader {
        name: String,
        value: Option<String>,
        #[serde(default = "once")]
        times: u32,
    },
    Fail {
        status: u16,
        code: String,
        retry_after_s: Option<u64>,
        #[serde(default = "once")]
        times: u32,
    },
    Freeze {
        on: bool,
    },
    HangBody(Times),
    OmitLastModified(Times),
    Outage {
        on: bool,
    },
    /// Empty blobs, of which all but one have their number behind the name.
    PutBlobs {
        container: String,
        name: String,
        #[serde(default)]
        metadata: BTreeMap<String, String>,
        #[serde(default = "once")]
        count: u32,
    },
    ReplaceBody {
        body: String,
        /// How often the body stands in the reply.
        #[serde(default = "once")]
        repeat: u32,
        #[serde(default = "once")]
        times: u32,
    },
    /// Not a fault: where chance starts.
    Seed {
        seed: u64,
    },
    SkewDate {
        seconds: i64,
    },
    SkewLastModified {
        seconds: i64,
        #[serde(default = "once")]
        times: u32,
    },
    StaleListings {
        on: bool,
    },
    TruncateBody(Times),
}

/// The arguments of faults that need no more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    #[serde(default = "once")]
    times: u32,
}

impl BlobFault {
    fn is_about_requests(&self) -> bool {
        match self {
            Self::ApplyTwice(_)
            | Self::Delay { .. }
            | Self::DropReplyAfterApply(_)
            | Self::DropRequest(_)
            | Self::EditHeader { .. }
            | Self::Fail { .. }
            | Self::HangBody(_)
            | Self::OmitLastModified(_)
            | Self::ReplaceBody { .. }
            | Self::SkewLastModified { .. }
            | Self::TruncateBody(_) => true,
            Self::DeleteBlob { .. }
            | Self::DeleteContainer { .. }
            | Self::Freeze { .. }
            | Self::Outage { .. }
            | Self::PutBlobs { .. }
            | Self::Seed { .. }
            | Self::SkewDate { .. }
            | Self::StaleListings { .. } => false,
        }
    }
}

impl BlobOrder {
    pub(super) fn carry_out(
        self,
        faults: &BlobFaults,
        account: &BlobAccount,
    ) -> Result<(), String> {
        let faults = self.requests.narrow(faults)?;
        match self.fault {
            BlobFault::ApplyTwice(Times { times }) => faults.apply_twice(times),
            BlobFault::Delay { delay_ms, times } => match times {
                Some(times) => faults.delay_next(times, delay_ms),
                None => faults.delay(delay_ms),
            },
            BlobFault::DeleteBlob { container, name } => {
                account.delete_blob(&container, &name)?;
            }
            BlobFault::DeleteContainer { container } => account.delete_container(&container)?,
            BlobFault::DropReplyAfterApply(Times { times }) => faults.drop_reply_after_apply(times),
            BlobFault::DropRequest(Times { times }) => faults.drop_request(times),
            BlobFault::EditHeader { name, value, times } => {
                if !faults.edit_header(times, &name, value.as_deref()) {
                    return Err(format!("'{name}' cannot be a header, or have this value"));
                }
            }
            BlobFault::Fail {
                status,
                code,
                retry_after_s,
                times,
            } => {
                if !(100..=999).contains(&status) {
                    return Err(format!("{status} is no HTTP status"));
                }
                let retry_after = retry_after_s.map(Duration::from_secs);
                faults.fail_next(times, status, &code, retry_after);
            }
            BlobFault::Freeze { on } => faults.freeze(on),
            BlobFault::HangBody(Times { times }) => faults.hang_body(times),
            BlobFault::OmitLastModified(Times { times }) => faults.omit_last_modified(times),
            BlobFault::Outage { on } => faults.outage(on),
            BlobFault::PutBlobs {
                container,
                name,
                metadata,
                count,
            } => put_blobs(account, &container, &name, &metadata, count)?,
            BlobFault::ReplaceBody {
                body,
                repeat,
                times,
            } => {
                if body.len().saturating_mul(repeat as usize) > MAX_BODY {
                    return Err(format!("a body has {MAX_BODY} bytes at most"));
                }
                faults.replace_body_with_many(times, body, repeat as usize);
            }
            BlobFault::Seed { seed } => faults.seed(seed),
            BlobFault::SkewDate { seconds } => {
                faults.skew_date(Duration::from_secs(seconds.unsigned_abs()), seconds < 0);
            }
            BlobFault::SkewLastModified { seconds, times } => {
                faults.skew_last_modified(times, seconds);
            }
            BlobFault::StaleListings { on } => faults.stale_listings(on),
            BlobFault::TruncateBody(Times { times }) => faults.truncate_body(times),
        }
        Ok(())
    }
}

impl Requests {
    fn narrow(self, faults: &BlobFaults) -> Result<BlobFaults, String> {
        let mut faults = faults.after(self.after);
        if let Some(operation) = self.operation {
            faults = faults.on_operation(operation);
        }
        if let Some(text) = self.name_contains {
            faults = faults.on_names_with(text);
        }
        match self.chance {
            None => Ok(faults),
            Some(chance) if (0.0..=1.0).contains(&chance) => Ok(faults.with_chance(chance)),
            Some(chance) => Err(format!("chance {chance} is not from 0 to 1")),
        }
    }
}

fn put_blobs(
    account: &BlobAccount,
    container: &str,
    name: &str,
    metadata: &BTreeMap<String, String>,
    count: u32,
) -> Result<(), String> {
    if count > MAX_BLOBS {
        return Err(format!("{MAX_BLOBS} blobs at most"));
    }
    let pairs: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (&**n, &**v)).collect();
    for number in 0..count {
        let name = match number {
            0 => name.to_owned(),
            _ => format!("{name}{number}"),
        };
        account.put_blob(container, &name, &pairs)?;
    }
    Ok(())
}
