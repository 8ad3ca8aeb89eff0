//! Values of the library into ours and back, and events into its messages. Pure.

pub(super) mod outgoing;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fe2o3_amqp_types::primitives::Value as Wire;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;

use crate::model::Value;

/// Annotation with the key that chooses the partition.
const PARTITION_KEY: &str = "x-opt-partition-key";

/// A time of the wire; `None` if this machine cannot represent it.
pub(super) fn system_time(millis: i64) -> Option<SystemTime> {
    let distance = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

pub(super) fn from_wire(value: Wire) -> Value {
    match value {
        Wire::Null => Value::Null,
        Wire::Bool(truth) => Value::Bool(truth),
        Wire::Ubyte(n) => Value::U8(n),
        Wire::Ushort(n) => Value::U16(n),
        Wire::Uint(n) => Value::U32(n),
        Wire::Ulong(n) => Value::U64(n),
        Wire::Byte(n) => Value::I8(n),
        Wire::Short(n) => Value::I16(n),
        Wire::Int(n) => Value::I32(n),
        Wire::Long(n) => Value::I64(n),
        Wire::Float(n) => Value::F32(n.0),
        Wire::Double(n) => Value::F64(n.0),
        Wire::Decimal32(n) => Value::Decimal32(n.into_inner()),
        Wire::Decimal64(n) => Value::Decimal64(n.into_inner()),
        Wire::Decimal128(n) => Value::Decimal128(n.into_inner()),
        Wire::Char(c) => Value::Char(c),
        Wire::Timestamp(time) => Value::Timestamp(time.milliseconds()),
        Wire::Uuid(uuid) => Value::Uuid(uuid.into_inner()),
        Wire::Binary(bytes) => Value::Binary(bytes.into_vec().into()),
        Wire::String(text) => Value::String(text),
        Wire::Symbol(text) => Value::Symbol(text.0),
        Wire::List(items) => Value::List(items.into_iter().map(from_wire).collect()),
        Wire::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (from_wire(key), from_wire(value)))
                .collect(),
        ),
        Wire::Array(items) => Value::Array(items.into_iter().map(from_wire).collect()),
        Wire::Described(described) => from_described(*described),
    }
}

fn from_described(described: Described<Wire>) -> Value {
    Value::Described {
        descriptor: Box::new(match described.descriptor {
            Descriptor::Name(name) => Value::Symbol(name.0),
            Descriptor::Code(code) => Value::U64(code),
        }),
        value: Box::new(from_wire(described.value)),
    }
}

#[cfg(test)]
mod tests;
