//! Walks over encoded AMQP values without decoding them, to find those that would kill the decoder. Pure.
//!
//! serde_amqp decodes by recursion without a limit: a body of 33 KB that nests deep enough overflows the stack
//! and takes the process with it, and would do so again in every consumer that reads the partition. It also
//! panics in builds with overflow checks on compounds whose size or count makes no sense, and believes length
//! fields before the bytes are there.

/// Deepest nesting let through. Debug builds of serde_amqp overflow a 2 MiB stack at about 250.
const MAX_DEPTH: usize = 64;

/// Most elements of an array; those without width cost no bytes. serde_amqp has the same limit.
const MAX_ARRAY: u64 = 65_536;

/// Longest start of a value: constructor, size, count and the constructor of an array's elements.
const MAX_HEAD: usize = 10;

/// Something the decoder must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// A value that has begun and not ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Values still to come in it.
    values: u64,
    /// Position after its last byte.
    end: u64,
    /// Whether it must end exactly there. A described value has no size of its own.
    is_sized: bool,
    /// Constructor of its elements, if they have none of their own.
    element: Option<u8>,
}

/// The state of a walk. It may stop at any byte and go on with the next chunk.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    /// No value may claim to end beyond this position.
    longest: u64,
    position: u64,
    skip: u64,
    head: [u8; MAX_HEAD],
    head_len: usize,
    open: Vec<Open>,
    finished: u64,
}

impl Default for Scanner {
    /// For bytes that are all there, so that what a value claims is found out.
    fn default() -> Self {
        Self::up_to(u64::MAX)
    }
}

impl Scanner {
    /// For bytes that come in pieces and end after `longest` of them at most: the decoder makes room for what
    /// a value claims before it knows that the rest never comes.
    pub(super) fn up_to(longest: u64) -> Self {
        Self {
            longest,
            position: 0,
            skip: 0,
            head: [0; MAX_HEAD],
            head_len: 0,
            open: Vec::new(),
            finished: 0,
        }
    }

    /// Top-level values that have ended.
    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    /// Walks over the next bytes, to the end or until `values` top-level values have ended. Returns the number
    /// of bytes walked over.
    ///
    /// # Errors
    ///
    /// A [`Violation`] and where the offending value begins, at most; 0 if that was in an earlier chunk.
    pub(super) fn walk(&mut self, bytes: &[u8], values: u64) -> Result<usize, (usize, Violation)> {
        let mut at = 0;
        let mut begins = 0;
        while at < bytes.len() && self.finished < values {
            if self.skip > 0 {
                let step = self.skip.min((bytes.len() - at) as u64);
                self.skip -= step;
                self.position += step;
                at += step as usize;
                if self.skip == 0 {
                    self.end_value().map_err(|violation| (begins, violation))?;
                }
                continue;
            }
            if self.head_len == 0 {
                begins = at;
                if let Some(element) = self.open.last().and_then(|open| open.element) {
                    self.push_head(element);
                }
            }
            let is_implied_only = self.head_len == 1 && self.needs() == 1;
            if !is_implied_only {
                self.push_head(bytes[at]);
                at += 1;
                self.position += 1;
            }
            if self.head_len == self.needs() {
                self.begin_value()
                    .map_err(|violation| (begins, violation))?;
            }
        }
        Ok(at)
    }

    fn push_head(&mut self, byte: u8) {
        self.head[self.head_len] = byte;
        self.head_len += 1;
    }

    /// Bytes that the start of this value has, as far as its constructor tells.
    fn needs(&self) -> usize {
        match self.head[0] >> 4 {
            0xa => 2,
            0xb => 5,
            0xc => 3,
            0xd => 9,
            // PROTOCOL: the constructor of the elements follows the count.
            0xe => 4,
            0xf => 10,
            _ => 1,
        }
    }

    /// Takes the start of a value that is complete.
    fn begin_value(&mut self) -> Result<(), Violation> {
        let head = self.head;
        self.head_len = 0;
        let u32_at = |at: usize| {
            u64::from(u32::from_be_bytes([
                head[at],
                head[at + 1],
                head[at + 2],
                head[at + 3],
            ]))
        };
        let small = |at: usize| u64::from(head[at]);
        match head[0] {
            0x00 => self.enter(Open {
                values: 2,
                end: self.limit(),
                is_sized: false,
                element: None,
            }),
            0x40..=0x45 => self.skip_value(0),
            0x50..=0x56 => self.skip_value(1),
            0x60 | 0x61 => self.skip_value(2),
            0x70..=0x74 => self.skip_value(4),
            0x80..=0x84 => self.skip_value(8),
            0x94 | 0x98 => self.skip_value(16),
            0xa0 | 0xa1 | 0xa3 => self.skip_value(small(1)),
            0xb0 | 0xb1 | 0xb3 => self.skip_value(u32_at(1)),
            0xc0 | 0xc1 => self.enter_compound(head[0], small(1), 1, small(2)),
            0xd0 | 0xd1 => self.enter_compound(head[0], u32_at(1), 4, u32_at(5)),
            0xe0 => self.enter_array(head[3], small(1), 1, small(2)),
            0xf0 => self.enter_array(head[9], u32_at(1), 4, u32_at(5)),
            _ => Err(Violation),
        }
    }

    /// Where the innermost open value ends.
    fn limit(&self) -> u64 {
        self.open.last().map_or(self.longest, |open| open.end)
    }

    fn skip_value(&mut self, len: u64) -> Result<(), Violation> {
        if self.position + len > self.limit() {
            return Err(Violation);
        }
        self.skip = len;
        if len == 0 { self.end_value() } else { Ok(()) }
    }

    fn enter(&mut self, open: Open) -> Result<(), Violation> {
        if self.open.len() >= MAX_DEPTH || open.end > self.limit() {
            return Err(Violation);
        }
        self.open.push(open);
        Ok(())
    }

    fn enter_compound(
        &mut self,
        constructor: u8,
        size: u64,
        width: u64,
        count: u64,
    ) -> Result<(), Violation> {
        let is_map = matches!(constructor, 0xc1 | 0xd1);
        let len = size.checked_sub(width).ok_or(Violation)?;
        // Every value takes a byte at least.
        if count > len || (is_map && !count.is_multiple_of(2)) || (count == 0 && len > 0) {
            return Err(Violation);
        }
        if count == 0 {
            return self.skip_value(0);
        }
        self.enter(Open {
            values: count,
            end: self.position + len,
            is_sized: true,
            element: None,
        })
    }

    fn enter_array(
        &mut self,
        element: u8,
        size: u64,
        width: u64,
        count: u64,
    ) -> Result<(), Violation> {
        // The constructor of the elements counts into the size and has been read.
        let len = size.checked_sub(width + 1).ok_or(Violation)?;
        if count > MAX_ARRAY {
            return Err(Violation);
        }
        let fixed = match element >> 4 {
            0x4 => Some(0),
            0x5 => Some(1),
            0x6 => Some(2),
            0x7 => Some(4),
            0x8 => Some(8),
            0x9 => Some(16),
            _ => None,
        };
        match fixed {
            Some(width) if count * width == len => self.skip_value(len),
            Some(_) => Err(Violation),
            None if count == 0 && len == 0 => self.skip_value(0),
            // Arrays of described values are not decoded by serde_amqp either.
            None if count == 0 || count > len || element == 0 => Err(Violation),
            // In an array of lists, maps or arrays serde_amqp 0.18.0 takes its constructor for that of the values within,
            // and so other bytes for their sizes. Nobody sends one to the library.
            None if element >= 0xc0 => Err(Violation),
            None => self.enter(Open {
                values: count,
                end: self.position + len,
                is_sized: true,
                element: Some(element),
            }),
        }
    }

    /// A value has ended, and with it perhaps those around it.
    fn end_value(&mut self) -> Result<(), Violation> {
        loop {
            let Some(open) = self.open.last_mut() else {
                self.finished += 1;
                return Ok(());
            };
            open.values -= 1;
            if open.values > 0 {
                return Ok(());
            }
            if open.is_sized && open.end != self.position {
                return Err(Violation);
            }
            self.open.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_amqp::primitives::{Array, OrderedMap};
    use serde_amqp::{Value, to_vec};

    use super::*;

    fn walk(bytes: &[u8]) -> Result<u64, Violation> {
        let mut scanner = Scanner::default();
        scanner
            .walk(bytes, u64::MAX)
            .map_err(|(_, violation)| violation)?;
        Ok(scanner.finished())
    }

    /// `depth` values around a null, each made by `wrap`.
    fn nested(depth: usize, wrap: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        (0..depth).fold(vec![0x40], |inner, _| wrap(&inner))
    }

    fn list32(inner: &[u8]) -> Vec<u8> {
        let size = (inner.len() as u32 + 4).to_be_bytes();
        [&[0xd0][..], &size, &[0, 0, 0, 1], inner].concat()
    }

    fn map32(inner: &[u8]) -> Vec<u8> {
        let size = (inner.len() as u32 + 5).to_be_bytes();
        [&[0xd1][..], &size, &[0, 0, 0, 2, 0x41], inner].concat()
    }

    fn described(inner: &[u8]) -> Vec<u8> {
        [&[0x00, 0x53, 0x77][..], inner].concat()
    }

    #[test]
    fn deep_nesting_is_found_in_every_form() {
        for wrap in [list32, map32, described] {
            assert_eq!(walk(&nested(30, wrap)), Ok(1));
            for depth in [66, 300, 3000] {
                assert_eq!(walk(&nested(depth, wrap)), Err(Violation), "{depth}");
            }
        }
        assert_eq!(walk(&[0; 1000]), Err(Violation));
    }

    #[test]
    fn sizes_and_counts_must_make_sense() {
        let bad: [&[u8]; 14] = [
            &[0xc0, 0x00, 0x00],                                     // size without the count
            &[0xc1, 0x02, 0x01, 0x40],                               // odd map
            &[0xc0, 0x02, 0x02, 0x40],                               // more values than bytes
            &[0xc0, 0x03, 0x01, 0x40, 0x40],                         // fewer values than bytes
            &[0xc0, 0x02, 0x01, 0xa1, 0x01, 0x61],                   // value beyond its list
            &[0xc0, 0x03, 0x01, 0xd0, 0, 0, 0, 8, 0, 0, 0, 4],       // list beyond its list
            &[0xf0, 0, 0, 0, 5, 0x01, 0x31, 0x2d, 0x00, 0x41], // 20 million times true in 10 bytes
            &[0xd1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // a map of four billion
            &[0xe0, 0x01, 0x01, 0x40],                         // array without element
            &[0xe0, 0x03, 0x02, 0x52, 0x01],                   // array shorter than its count
            &[0xe0, 0x05, 0x01, 0xc0, 0x02, 0x01, 0x40],       // array of lists
            &[0xe0, 0x06, 0x01, 0xc1, 0x03, 0x02, 0x40, 0x40], // array of maps
            &[0x3f],                                           // no constructor
            &[0xff; 16],                                       // no constructor
        ];
        for bytes in bad {
            assert_eq!(walk(bytes), Err(Violation), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_value_cannot_claim_more_than_may_come() {
        let claims: [&[u8]; 4] = [
            &[0xb0, 0xff, 0xff, 0xff, 0xff],
            &[0xb1, 0x00, 0x00, 0x04, 0x00],
            &[0x00, 0x53, 0x77, 0xb3, 0x00, 0x00, 0x04, 0x00],
            &[0xd0, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x01],
        ];
        for bytes in claims {
            assert!(
                Scanner::up_to(1000).walk(bytes, u64::MAX).is_err(),
                "{bytes:02x?}"
            );
            assert!(
                Scanner::default().walk(bytes, u64::MAX).is_ok(),
                "{bytes:02x?}"
            );
        }
        let whole = [&[0xb0, 0x00, 0x00, 0x03, 0xe3][..], &[7; 995]].concat();
        assert_eq!(Scanner::up_to(1000).walk(&whole, u64::MAX), Ok(1000));
    }

    #[test]
    fn a_violation_tells_where_it_begins() {
        let mut scanner = Scanner::default();
        let bytes = [0x41, 0x52, 0x07, 0x3f, 0x40];
        assert_eq!(scanner.walk(&bytes, u64::MAX), Err((3, Violation)));
    }

    #[test]
    fn a_walk_stops_after_the_values_asked_for() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.walk(&[0x41, 0xa1, 0x01, 0x61, 0x40], 2), Ok(4));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<u32>().prop_map(Value::Uint),
            any::<i64>().prop_map(Value::Long),
            any::<f64>().prop_map(Value::from),
            any::<[u8; 16]>().prop_map(|bytes| Value::Uuid(bytes.into())),
            ".{0,300}".prop_map(Value::String),
            "[a-z]{0,9}".prop_map(|text| Value::Symbol(text.into())),
            proptest::collection::vec(any::<i32>().prop_map(Value::Int), 1..9)
                .prop_map(|items| Value::Array(Array::from(items))),
            // ASCII only: the encoder of serde_amqp 0.18.0 counts characters, not bytes, in arrays.
            proptest::collection::vec("[ -~]{0,9}".prop_map(Value::String), 1..9)
                .prop_map(|items| Value::Array(Array::from(items))),
        ];
        leaf.prop_recursive(6, 60, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
                proptest::collection::vec((".{0,9}", inner), 0..8).prop_map(|entries| {
                    let map: OrderedMap<_, _> = entries
                        .into_iter()
                        .map(|(key, value)| (Value::String(key), value))
                        .collect();
                    Value::Map(map)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_encoder_writes_passes_in_any_chunks(value in value(), cuts in proptest::collection::vec(1usize..40, 0..40)) {
            let bytes = to_vec(&value).unwrap();
            let mut scanner = Scanner::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (chunk, tail) = rest.split_at(cut.min(rest.len()));
                prop_assert_eq!(scanner.walk(chunk, u64::MAX), Ok(chunk.len()));
                rest = tail;
            }
            prop_assert_eq!(scanner.walk(rest, u64::MAX), Ok(rest.len()));
            prop_assert_eq!(scanner.finished(), 1);
        }

        #[test]
        fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = walk(&bytes);
        }

        #[test]
        fn what_passes_whole_can_be_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
            if walk(&bytes) == Ok(1) {
                let _ = serde_amqp::from_slice::<Value>(&bytes);
            }
        }
    }
}
