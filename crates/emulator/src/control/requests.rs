//! Orders as they come over the control port.

use std::time::Duration;

use serde::Deserialize;

use crate::amqp::fault_kinds::millis;
use crate::amqp::{BadFrame, ReplyFault, ResetStage};
use crate::blob::BlobOperation;
use crate::emulator::{BlobFaults, Faults};

/// A fault of the Event Hubs side: a method of [`Faults`] by name, with its arguments.
///
/// Flat on the wire: `{"fault": "reset_at", "stage": "attach", "times": 2, "chance": 0.5}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    AnswerCbs {
        status: i32,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    CloseConnections {
        condition: String,
        #[serde(default)]
        description: String,
    },
    Delay {
        #[serde(with = "millis")]
        delay_ms: Duration,
    },
    DetachReceivers {
        hub: String,
        partition: Option<String>,
        condition: String,
        #[serde(default)]
        description: String,
    },
    DetachSenders {
        hub: String,
        partition: Option<String>,
        condition: String,
        #[serde(default)]
        description: String,
    },
    DisturbCbs {
        how: ReplyFault,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    DisturbManagement {
        hub: String,
        how: ReplyFault,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    DropConnections {},
    DuplicateDeliveries(Placed),
    EndSessions {
        condition: String,
        #[serde(default)]
        description: String,
    },
    ExpireTokens {
        hub: String,
        partition: Option<String>,
    },
    FailOver {},
    FreezeConnections {
        on: bool,
    },
    IgnoreAttaches {
        on: bool,
    },
    IgnoreDetaches(Placed),
    LoseDispositions(Placed),
    OverSend {
        hub: String,
        partition: Option<String>,
        extra: u32,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    RefuseAttaches {
        hub: String,
        partition: Option<String>,
        condition: String,
        #[serde(default)]
        description: String,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    RejectMessages {
        hub: String,
        partition: Option<String>,
        condition: String,
        #[serde(default)]
        description: String,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    ReorderDeliveries(Placed),
    ResetAfterBytes {
        bytes: usize,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    ResetAfterStore(Placed),
    ResetAt {
        stage: ResetStage,
        hub: Option<String>,
        partition: Option<String>,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    /// Not a fault: where chance starts.
    Seed {
        seed: u64,
    },
    SendBadFrame {
        frame: BadFrame,
    },
    ShowFewerPartitions {
        hub: String,
        partitions: u32,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    SkipDeliveries(Placed),
    WithholdCredit {
        on: bool,
    },
}

/// The arguments of faults that need only a place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Placed {
    hub: String,
    partition: Option<String>,
    #[serde(default = "once")]
    times: u32,
    chance: Option<f64>,
}

fn once() -> u32 {
    1
}

impl Order {
    pub(super) fn carry_out(self, faults: &Faults) -> Result<(), String> {
        let by = |chance| with_chance(faults, chance);
        match self {
            Self::AnswerCbs {
                status,
                times,
                chance,
            } => by(chance)?.answer_cbs(status, times),
            Self::CloseConnections {
                condition,
                description,
            } => faults.close_connections(&condition, &description),
            Self::Delay { delay_ms } => faults.delay(delay_ms),
            Self::DetachReceivers {
                hub,
                partition,
                condition,
                description,
            } => faults.detach_receivers(&hub, partition.as_deref(), &condition, &description),
            Self::DetachSenders {
                hub,
                partition,
                condition,
                description,
            } => faults.detach_senders(&hub, partition.as_deref(), &condition, &description),
            Self::DisturbCbs { how, times, chance } => by(chance)?.disturb_cbs(how, times),
            Self::DisturbManagement {
                hub,
                how,
                times,
                chance,
            } => by(chance)?.disturb_management(&hub, how, times),
            Self::DropConnections {} => faults.drop_connections(),
            Self::DuplicateDeliveries(at) => at.order(faults, Faults::duplicate_deliveries)?,
            Self::EndSessions {
                condition,
                description,
            } => faults.end_sessions(&condition, &description),
            Self::ExpireTokens { hub, partition } => {
                faults.expire_tokens(&hub, partition.as_deref());
            }
            Self::FailOver {} => faults.fail_over().map_err(|error| error.to_string())?,
            Self::FreezeConnections { on } => faults.freeze_connections(on),
            Self::IgnoreAttaches { on } => faults.ignore_attaches(on),
            Self::IgnoreDetaches(at) => at.order(faults, Faults::ignore_detaches)?,
            Self::LoseDispositions(at) => at.order(faults, Faults::lose_dispositions)?,
            Self::OverSend {
                hub,
                partition,
                extra,
                times,
                chance,
            } => by(chance)?.over_send(&hub, partition.as_deref(), extra, times),
            Self::RefuseAttaches {
                hub,
                partition,
                condition,
                description,
                times,
                chance,
            } => {
                let (id, text) = (partition.as_deref(), &*description);
                by(chance)?.refuse_attaches(&hub, id, &condition, text, times);
            }
            Self::RejectMessages {
                hub,
                partition,
                condition,
                description,
                times,
                chance,
            } => {
                let (id, text) = (partition.as_deref(), &*description);
                by(chance)?.reject_messages(&hub, id, &condition, text, times);
            }
            Self::ReorderDeliveries(at) => at.order(faults, Faults::reorder_deliveries)?,
            Self::ResetAfterBytes {
                bytes,
                times,
                chance,
            } => by(chance)?.reset_after_bytes(bytes, times),
            Self::ResetAfterStore(at) => at.order(faults, Faults::reset_after_store)?,
            Self::ResetAt {
                stage,
                hub,
                partition,
                times,
                chance,
            } => match (hub, partition) {
                (Some(hub), id) => {
                    by(chance)?.reset_at_link(stage, &hub, id.as_deref(), times);
                }
                (None, Some(_)) => return Err("a partition without its hub".to_owned()),
                (None, None) => by(chance)?.reset_at(stage, times),
            },
            Self::Seed { seed } => faults.seed(seed),
            Self::SendBadFrame { frame } => faults.send_bad_frame(frame),
            Self::ShowFewerPartitions {
                hub,
                partitions,
                times,
                chance,
            } => by(chance)?.show_fewer_partitions(&hub, partitions, times),
            Self::SkipDeliveries(at) => at.order(faults, Faults::skip_deliveries)?,
            Self::WithholdCredit { on } => faults.withhold_credit(on),
        }
        Ok(())
    }
}

impl Placed {
    fn order(
        self,
        faults: &Faults,
        fault: impl Fn(&Faults, &str, Option<&str>, u32),
    ) -> Result<(), String> {
        let faults = with_chance(faults, self.chance)?;
        fault(&faults, &self.hub, self.partition.as_deref(), self.times);
        Ok(())
    }
}

fn with_chance(faults: &Faults, chance: Option<f64>) -> Result<Faults, String> {
    match chance {
        None => Ok(faults.clone()),
        Some(chance) if (0.0..=1.0).contains(&chance) => Ok(faults.with_chance(chance)),
        Some(chance) => Err(format!("chance {chance} is not from 0 to 1")),
    }
}

/// A fault of the blob side: a method of [`BlobFaults`] by name, with its arguments.
#[derive(Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum BlobOrder {
    /// For the next `times` requests, or until cleared.
    Delay {
        #[serde(with = "millis")]
        delay_ms: Duration,
        times: Option<u32>,
        operation: Option<BlobOperation>,
        name_contains: Option<String>,
    },
    DropReplyAfterApply(Requests),
    DropRequest(Requests),
    EditHeader {
        name: String,
        value: Option<String>,
        #[serde(default = "once")]
        times: u32,
        operation: Option<BlobOperation>,
        name_contains: Option<String>,
    },
    Fail {
        status: u16,
        code: String,
        retry_after_s: Option<u64>,
        #[serde(default = "once")]
        times: u32,
        operation: Option<BlobOperation>,
        name_contains: Option<String>,
    },
    Freeze {
        on: bool,
    },
    HangBody(Requests),
    Outage {
        on: bool,
    },
    ReplaceBody {
        body: String,
        #[serde(default = "once")]
        times: u32,
        operation: Option<BlobOperation>,
        name_contains: Option<String>,
    },
    /// Negative is the past.
    SkewDate {
        seconds: i64,
    },
    StaleListings {
        on: bool,
    },
    TruncateBody(Requests),
}

/// Which requests a fault of the blob side meets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requests {
    #[serde(default = "once")]
    times: u32,
    operation: Option<BlobOperation>,
    name_contains: Option<String>,
}

impl BlobOrder {
    pub(super) fn carry_out(self, faults: &BlobFaults) -> Result<(), String> {
        match self {
            Self::Delay {
                delay_ms,
                times,
                operation,
                name_contains,
            } => {
                let faults = narrowed(faults, operation, name_contains);
                match times {
                    Some(times) => faults.delay_next(times, delay_ms),
                    None => faults.delay(delay_ms),
                }
            }
            Self::DropReplyAfterApply(to) => to.order(faults, BlobFaults::drop_reply_after_apply),
            Self::DropRequest(to) => to.order(faults, BlobFaults::drop_request),
            Self::EditHeader {
                name,
                value,
                times,
                operation,
                name_contains,
            } => {
                let faults = narrowed(faults, operation, name_contains);
                if !faults.edit_header(times, &name, value.as_deref()) {
                    return Err(format!("'{name}' cannot be a header, or have this value"));
                }
            }
            Self::Fail {
                status,
                code,
                retry_after_s,
                times,
                operation,
                name_contains,
            } => {
                if !(100..=999).contains(&status) {
                    return Err(format!("{status} is no HTTP status"));
                }
                let retry_after = retry_after_s.map(Duration::from_secs);
                let faults = narrowed(faults, operation, name_contains);
                faults.fail_next(times, status, &code, retry_after);
            }
            Self::Freeze { on } => faults.freeze(on),
            Self::HangBody(to) => to.order(faults, BlobFaults::hang_body),
            Self::Outage { on } => faults.outage(on),
            Self::ReplaceBody {
                body,
                times,
                operation,
                name_contains,
            } => narrowed(faults, operation, name_contains).replace_body(times, body),
            Self::SkewDate { seconds } => {
                faults.skew_date(Duration::from_secs(seconds.unsigned_abs()), seconds < 0);
            }
            Self::StaleListings { on } => faults.stale_listings(on),
            Self::TruncateBody(to) => to.order(faults, BlobFaults::truncate_body),
        }
        Ok(())
    }
}

impl Requests {
    fn order(self, faults: &BlobFaults, fault: impl Fn(&BlobFaults, u32)) {
        let faults = narrowed(faults, self.operation, self.name_contains);
        fault(&faults, self.times);
    }
}

fn narrowed(
    faults: &BlobFaults,
    operation: Option<BlobOperation>,
    name_contains: Option<String>,
) -> BlobFaults {
    let faults = match operation {
        Some(operation) => faults.on_operation(operation),
        None => faults.clone(),
    };
    match name_contains {
        Some(text) => faults.on_names_with(text),
        None => faults,
    }
}
