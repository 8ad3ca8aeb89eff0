//! The vocabulary of faults: where a connection breaks, how a frame is bad, how a reply fails.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A step of the protocol at which a connection is reset in place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResetStage {
    /// When the peer's `attach` has come.
    Attach,
    /// When the peer's `begin` has come.
    Begin,
    /// When the peer's `close` has come.
    Close,
    /// When the peer's `detach` has come.
    Detach,
    /// When the peer has told the state of events it received.
    Disposition,
    /// When the peer's `end` has come.
    End,
    /// When the peer has given credit or changed a window.
    Flow,
    /// When the peer's protocol header has come.
    Header,
    /// When the peer's `open` has come.
    Open,
    /// When the peer has chosen a SASL mechanism.
    Sasl,
    /// When the first bytes of a client of a TLS port have come.
    Tls,
    /// When a message of the peer has come, and before it is stored.
    Transfer,
    /// When a client of a WebSocket port has asked for the upgrade, after TLS if there is any.
    Upgrade,
}

/// What is wrong with a TLS port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TlsFault {
    /// A certificate that was good until yesterday.
    Expired,
    /// A certificate that is good from tomorrow on.
    NotYetValid,
    /// A server that knows nothing newer than TLS 1.0, which is refused with its first answer.
    OldVersion,
    /// A certificate without an authority.
    SelfSigned,
    /// A certificate of an authority nobody trusts.
    UnknownAuthority,
    /// A certificate for another host.
    WrongName,
}

/// A frame no good peer would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BadFrame {
    /// A size below the eight bytes of the frame header.
    SizeTooSmall,
    /// A data offset that points into the frame header.
    OffsetTooSmall,
    /// A size beyond every frame size that was agreed on.
    Oversize,
    /// A type that is neither AMQP nor SASL.
    UnknownType,
    /// A body that is no performative.
    Garbage,
}

impl BadFrame {
    /// The bytes on the wire. The oversize frame is only announced: its body never comes.
    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::SizeTooSmall => &[0, 0, 0, 7, 2, 0, 0, 0],
            Self::OffsetTooSmall => &[0, 0, 0, 8, 1, 0, 0, 0],
            Self::Oversize => &[0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0],
            Self::UnknownType => &[0, 0, 0, 8, 2, 9, 0, 0],
            Self::Garbage => &[0, 0, 0, 12, 2, 0, 0, 0, 0x00, 0x53, 0x10, 0xff],
        }
    }
}

/// How the answer to a request to `$cbs` or `$management` fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "how",
    rename_all = "snake_case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
#[non_exhaustive]
pub enum ReplyFault {
    /// It comes this much later.
    Late {
        /// How much, in milliseconds on the control port.
        #[serde(rename = "delay_ms", with = "millis")]
        delay: Duration,
    },
    /// It never comes.
    Lost {},
    /// It has this status.
    Status {
        /// The status, such as 401, 404 or 500.
        status: i32,
    },
    /// It is the answer to another request.
    WrongCorrelation {},
}

/// Durations as whole milliseconds.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S>(delay: &Duration, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        to.serialize_u64(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D>(from: D) -> Result<Duration, D::Error>
    where
        D: Deserializer<'de>,
    {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
