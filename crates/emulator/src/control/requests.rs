//! Orders as they come over the control port.

use std::time::Duration;

use serde::Deserialize;

use crate::amqp::fault_kinds::millis;
use crate::amqp::{BadFrame, ReplyFault, ResetStage, TlsFault};
use crate::emulator::Faults;

/// Much more than any link takes, and no burden.
const MAX_PADDING: usize = 64 << 20;

/// A fault of the Event Hubs side: a method of [`Faults`] by name, with its arguments.
///
/// Flat on the wire: `{"fault": "reset_at", "stage": "attach", "times": 2, "chance": 0.5}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    AbortDeliveries(Placed),
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
        connection: Option<u64>,
        hub: Option<String>,
        partition: Option<String>,
    },
    CloseWebSockets {
        #[serde(default = "going_away")]
        code: u16,
        #[serde(default)]
        reason: String,
        connection: Option<u64>,
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
    DisableHub {
        hub: String,
        on: bool,
    },
    DisturbTls {
        how: TlsFault,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    DropConnections(Connections),
    DuplicateDeliveries(Placed),
    EndSessions {
        condition: String,
        #[serde(default)]
        description: String,
        connection: Option<u64>,
        hub: Option<String>,
        partition: Option<String>,
    },
    ExpireTokens {
        hub: String,
        partition: Option<String>,
    },
    FailOver {},
    FragmentWebSockets {
        bytes: usize,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    FreezeConnections {
        on: bool,
    },
    IgnoreAttaches(Switch),
    IgnoreDetaches(Placed),
    InflateDeliveries {
        hub: String,
        partition: Option<String>,
        bytes: usize,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    InterleaveDeliveries(Placed),
    LoseDispositions(Placed),
    OverSend {
        hub: String,
        partition: Option<String>,
        extra: u32,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    PingWebSockets {
        count: u32,
        connection: Option<u64>,
    },
    RecreateHub {
        hub: String,
    },
    RedirectConnections {
        host: String,
        port: u16,
        connection: Option<u64>,
        hub: Option<String>,
        partition: Option<String>,
    },
    RedirectLinks {
        hub: String,
        partition: Option<String>,
        host: String,
        port: u16,
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
    RefuseConnections {
        on: bool,
    },
    RefuseUpgrades {
        status: u16,
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
    RepeatDeliveryIds(Placed),
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
        connection: Option<u64>,
        hub: Option<String>,
        partition: Option<String>,
    },
    ShowFewerPartitions {
        hub: String,
        partitions: u32,
        #[serde(default = "once")]
        times: u32,
        chance: Option<f64>,
    },
    SkipDeliveries(Placed),
    WithholdCredit(Switch),
    WithholdDeliveries(Switch),
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

/// The arguments of faults that disturb connections at once and need no more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connections {
    connection: Option<u64>,
    hub: Option<String>,
    partition: Option<String>,
}

/// The arguments of faults that last.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    on: bool,
    hub: Option<String>,
    partition: Option<String>,
}

pub(super) fn once() -> u32 {
    1
}

/// RFC 6455, 7.4.1.
fn going_away() -> u16 {
    1001
}

impl Order {
    pub(super) fn carry_out(self, faults: &Faults) -> Result<(), String> {
        let by = |chance| with_chance(faults, chance);
        match self {
            Self::AbortDeliveries(at) => at.order(faults, Faults::abort_deliveries)?,
            Self::AnswerCbs {
                status,
                times,
                chance,
            } => by(chance)?.answer_cbs(status, times),
            Self::CloseConnections {
                condition,
                description,
                connection,
                hub,
                partition,
            } => narrowed(faults, connection, hub, partition)?
                .close_connections(&condition, &description),
            Self::CloseWebSockets {
                code,
                reason,
                connection,
            } => {
                if reason.len() > 123 {
                    return Err("a reason has 123 bytes at most".to_owned());
                }
                narrowed(faults, connection, None, None)?.close_web_sockets(code, &reason);
            }
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
            Self::DisableHub { hub, on } => faults.disable_hub(&hub, on),
            Self::DisturbTls { how, times, chance } => by(chance)?.disturb_tls(how, times),
            Self::DropConnections(Connections {
                connection,
                hub,
                partition,
            }) => narrowed(faults, connection, hub, partition)?.drop_connections(),
            Self::DuplicateDeliveries(at) => at.order(faults, Faults::duplicate_deliveries)?,
            Self::EndSessions {
                condition,
                description,
                connection,
                hub,
                partition,
            } => {
                narrowed(faults, connection, hub, partition)?.end_sessions(&condition, &description)
            }
            Self::ExpireTokens { hub, partition } => {
                faults.expire_tokens(&hub, partition.as_deref());
            }
            Self::FailOver {} => faults.fail_over().map_err(|error| error.to_string())?,
            Self::FragmentWebSockets {
                bytes,
                times,
                chance,
            } => by(chance)?.fragment_web_sockets(bytes, times),
            Self::FreezeConnections { on } => faults.freeze_connections(on),
            Self::IgnoreAttaches(switch) => switch.order(faults, Faults::ignore_attaches)?,
            Self::IgnoreDetaches(at) => at.order(faults, Faults::ignore_detaches)?,
            Self::InflateDeliveries {
                hub,
                partition,
                bytes,
                times,
                chance,
            } => {
                if bytes > MAX_PADDING {
                    return Err(format!("padding has {MAX_PADDING} bytes at most"));
                }
                by(chance)?.inflate_deliveries(&hub, partition.as_deref(), bytes, times);
            }
            Self::InterleaveDeliveries(at) => at.order(faults, Faults::interleave_deliveries)?,
            Self::LoseDispositions(at) => at.order(faults, Faults::lose_dispositions)?,
            Self::OverSend {
                hub,
                partition,
                extra,
                times,
                chance,
            } => by(chance)?.over_send(&hub, partition.as_deref(), extra, times),
            Self::PingWebSockets { count, connection } => {
                narrowed(faults, connection, None, None)?.ping_web_sockets(count);
            }
            Self::RecreateHub { hub } => {
                faults
                    .recreate_hub(&hub)
                    .map_err(|error| error.to_string())?;
            }
            Self::RedirectConnections {
                host,
                port,
                connection,
                hub,
                partition,
            } => narrowed(faults, connection, hub, partition)?.redirect_connections(&host, port),
            Self::RedirectLinks {
                hub,
                partition,
                host,
                port,
            } => faults.redirect_links(&hub, partition.as_deref(), &host, port),
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
            Self::RefuseConnections { on } => faults.refuse_connections(on),
            Self::RefuseUpgrades {
                status,
                times,
                chance,
            } => {
                if !(300..=599).contains(&status) {
                    return Err(format!("{status} refuses nothing"));
                }
                by(chance)?.refuse_upgrades(status, times);
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
            Self::RepeatDeliveryIds(at) => at.order(faults, Faults::repeat_delivery_ids)?,
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
            Self::SendBadFrame {
                frame,
                connection,
                hub,
                partition,
            } => narrowed(faults, connection, hub, partition)?.send_bad_frame(frame),
            Self::ShowFewerPartitions {
                hub,
                partitions,
                times,
                chance,
            } => by(chance)?.show_fewer_partitions(&hub, partitions, times),
            Self::SkipDeliveries(at) => at.order(faults, Faults::skip_deliveries)?,
            Self::WithholdCredit(switch) => switch.order(faults, Faults::withhold_credit)?,
            Self::WithholdDeliveries(switch) => {
                switch.order(faults, Faults::withhold_deliveries)?;
            }
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

impl Switch {
    fn order(self, faults: &Faults, fault: impl Fn(&Faults, bool)) -> Result<(), String> {
        fault(&narrowed(faults, None, self.hub, self.partition)?, self.on);
        Ok(())
    }
}

fn narrowed(
    faults: &Faults,
    connection: Option<u64>,
    hub: Option<String>,
    partition: Option<String>,
) -> Result<Faults, String> {
    let faults = match connection {
        Some(id) => faults.on_connection(id),
        None => faults.clone(),
    };
    match (hub, partition) {
        (None, None) => Ok(faults),
        (Some(hub), None) => Ok(faults.on_hub(&hub)),
        (Some(hub), Some(id)) => Ok(faults.on_partition(&hub, &id)),
        (None, Some(_)) => Err("a partition without its hub".to_owned()),
    }
}

fn with_chance(faults: &Faults, chance: Option<f64>) -> Result<Faults, String> {
    match chance {
        None => Ok(faults.clone()),
        Some(chance) if (0.0..=1.0).contains(&chance) => Ok(faults.with_chance(chance)),
        Some(chance) => Err(format!("chance {chance} is not from 0 to 1")),
    }
}
