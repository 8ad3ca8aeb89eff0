//! Tests of the conversion of values.

use fe2o3_amqp_types::primitives::{Binary, OrderedMap, Symbol, Timestamp, Uuid};
use proptest::prelude::*;
use serde_amqp::primitives::{Array, Dec32, Dec64, Dec128};

use super::*;

#[test]
fn every_type_has_its_own_variant() {
    let described = Wire::Described(Box::new(Described {
        descriptor: Descriptor::Name(Symbol::from("com.microsoft:timespan")),
        value: Wire::Long(1),
    }));
    let map: OrderedMap<Wire, Wire> = [(Wire::Ubyte(1), Wire::Null)].into_iter().collect();
    let cases = [
        (Wire::Null, Value::Null),
        (Wire::Bool(true), Value::Bool(true)),
        (Wire::Ubyte(1), Value::U8(1)),
        (Wire::Ushort(1), Value::U16(1)),
        (Wire::Uint(1), Value::U32(1)),
        (Wire::Ulong(1), Value::U64(1)),
        (Wire::Byte(-1), Value::I8(-1)),
        (Wire::Short(-1), Value::I16(-1)),
        (Wire::Int(-1), Value::I32(-1)),
        (Wire::Long(-1), Value::I64(-1)),
        (Wire::from(1.5f32), Value::F32(1.5)),
        (Wire::from(1.5f64), Value::F64(1.5)),
        (
            Wire::Decimal32(Dec32::from([1; 4])),
            Value::Decimal32([1; 4]),
        ),
        (
            Wire::Decimal64(Dec64::from([1; 8])),
            Value::Decimal64([1; 8]),
        ),
        (
            Wire::Decimal128(Dec128::from([1; 16])),
            Value::Decimal128([1; 16]),
        ),
        (Wire::Char('x'), Value::Char('x')),
        (
            Wire::Timestamp(Timestamp::from_milliseconds(-5)),
            Value::Timestamp(-5),
        ),
        (Wire::Uuid(Uuid::from([7; 16])), Value::Uuid([7; 16])),
        (
            Wire::Binary(Binary::from(vec![1])),
            Value::Binary(vec![1].into()),
        ),
        (
            Wire::Symbol(Symbol::from("s")),
            Value::Symbol("s".to_owned()),
        ),
        (Wire::List(vec![Wire::Null]), Value::List(vec![Value::Null])),
        (
            Wire::Array(Array::from(vec![Wire::Int(1)])),
            Value::Array(vec![Value::I32(1)]),
        ),
        (
            Wire::Map(map),
            Value::Map(vec![(Value::U8(1), Value::Null)]),
        ),
        (
            described,
            Value::Described {
                descriptor: Box::new(Value::Symbol("com.microsoft:timespan".to_owned())),
                value: Box::new(Value::I64(1)),
            },
        ),
    ];
    for (wire, value) in cases {
        assert_eq!(from_wire(wire), value);
    }
}

proptest! {
    #[test]
    fn times_survive_or_are_refused(millis in any::<i64>()) {
        if let Some(time) = system_time(millis) {
            prop_assert_eq!(super::super::filter::unix_millis(time), millis);
        }
    }
}
