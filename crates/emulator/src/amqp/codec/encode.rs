//! Writing values, and lists whose every field is written.

use bytes::{BufMut, BytesMut};

use super::Value;

pub(crate) fn put_null(buf: &mut BytesMut) {
    buf.put_u8(0x40);
}

pub(crate) fn put_bool(buf: &mut BytesMut, flag: bool) {
    buf.put_u8(if flag { 0x41 } else { 0x42 });
}

pub(crate) fn put_uint(buf: &mut BytesMut, n: u32) {
    match u8::try_from(n) {
        Ok(0) => buf.put_u8(0x43),
        Ok(small) => buf.put_slice(&[0x52, small]),
        Err(_) => {
            buf.put_u8(0x70);
            buf.put_u32(n);
        }
    }
}

pub(crate) fn put_ulong(buf: &mut BytesMut, n: u64) {
    match u8::try_from(n) {
        Ok(small) => buf.put_slice(&[0x53, small]),
        Err(_) => {
            buf.put_u8(0x80);
            buf.put_u64(n);
        }
    }
}

pub(crate) fn put_long(buf: &mut BytesMut, n: i64) {
    buf.put_u8(0x81);
    buf.put_i64(n);
}

pub(crate) fn put_timestamp(buf: &mut BytesMut, millis: i64) {
    buf.put_u8(0x83);
    buf.put_i64(millis);
}

pub(crate) fn put_str(buf: &mut BytesMut, text: &str) {
    put_variable(buf, 0xa1, text.as_bytes());
}

pub(crate) fn put_symbol(buf: &mut BytesMut, text: &str) {
    put_variable(buf, 0xa3, text.as_bytes());
}

pub(crate) fn put_binary(buf: &mut BytesMut, bytes: &[u8]) {
    put_variable(buf, 0xa0, bytes);
}

/// The constructor of a described value: `00 53 code`, always the one-byte form.
/// INTEROP: Python misreads the eight-byte form.
pub(crate) fn put_descriptor(buf: &mut BytesMut, code: u64) {
    buf.put_u8(0x00);
    put_ulong(buf, code);
}

/// Arrays of strings and of symbols. An empty one has no element type worth writing and becomes null.
pub(crate) fn put_text_array<T: AsRef<str>>(buf: &mut BytesMut, symbols: bool, items: &[T]) {
    if items.is_empty() {
        return put_null(buf);
    }
    buf.put_u8(0xf0);
    let start = reserve_compound(buf);
    buf.put_u8(if symbols { 0xb3 } else { 0xb1 });
    for item in items {
        let bytes = item.as_ref().as_bytes();
        buf.put_u32(len_u32(bytes.len()));
        buf.put_slice(bytes);
    }
    finish_compound(buf, start, len_u32(items.len()));
}

/// Any value, with the type it has.
pub(crate) fn put_value(buf: &mut BytesMut, value: &Value) {
    match value {
        Value::Null => put_null(buf),
        Value::Bool(flag) => put_bool(buf, *flag),
        Value::Ubyte(n) => buf.put_slice(&[0x50, *n]),
        Value::Ushort(n) => put_fixed(buf, 0x60, &n.to_be_bytes()),
        Value::Uint(n) => put_uint(buf, *n),
        Value::Ulong(n) => put_ulong(buf, *n),
        Value::Byte(n) => put_fixed(buf, 0x51, &n.to_be_bytes()),
        Value::Short(n) => put_fixed(buf, 0x61, &n.to_be_bytes()),
        Value::Int(n) => put_fixed(buf, 0x71, &n.to_be_bytes()),
        Value::Long(n) => put_long(buf, *n),
        Value::Float(n) => put_fixed(buf, 0x72, &n.to_be_bytes()),
        Value::Double(n) => put_fixed(buf, 0x82, &n.to_be_bytes()),
        Value::Decimal(bytes) => {
            let code = match bytes.len() {
                4 => 0x74,
                8 => 0x84,
                _ => 0x94,
            };
            put_fixed(buf, code, bytes);
        }
        Value::Char(c) => put_fixed(buf, 0x73, &c.to_be_bytes()),
        Value::Timestamp(millis) => put_timestamp(buf, *millis),
        Value::Uuid(bytes) => put_fixed(buf, 0x98, bytes),
        Value::Binary(bytes) => put_binary(buf, bytes),
        Value::String(text) => put_str(buf, text),
        Value::Symbol(text) => put_symbol(buf, text),
        Value::List(items) => {
            let mut list = ListWriter::start(buf);
            for item in items {
                list.value(item);
            }
            list.finish();
        }
        Value::Map(entries) => {
            buf.put_u8(0xd1);
            let start = reserve_compound(buf);
            for (key, value) in entries {
                put_value(buf, key);
                put_value(buf, value);
            }
            finish_compound(buf, start, len_u32(entries.len() * 2));
        }
        Value::Array(items) => put_array(buf, items),
        Value::Described(pair) => {
            buf.put_u8(0x00);
            put_value(buf, &pair.0);
            put_value(buf, &pair.1);
        }
    }
}

/// Arrays of anything but text never leave this server; they become a list of the same items.
fn put_array(buf: &mut BytesMut, items: &[Value]) {
    let texts: Vec<&str> = items.iter().filter_map(Value::as_text).collect();
    if texts.len() == items.len() {
        put_text_array(buf, matches!(items.first(), Some(Value::Symbol(_))), &texts);
    } else {
        let mut list = ListWriter::start(buf);
        for item in items {
            list.value(item);
        }
        list.finish();
    }
}

fn put_fixed(buf: &mut BytesMut, code: u8, bytes: &[u8]) {
    buf.put_u8(code);
    buf.put_slice(bytes);
}

fn put_variable(buf: &mut BytesMut, short_code: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => buf.put_slice(&[short_code, len]),
        Err(_) => {
            buf.put_u8(short_code + 0x10);
            buf.put_u32(len_u32(bytes.len()));
        }
    }
    buf.put_slice(bytes);
}

/// Leaves room for size and count of a 32-bit compound value whose code has just been written.
pub(crate) fn reserve_compound(buf: &mut BytesMut) -> usize {
    let start = buf.len();
    buf.put_u64(0);
    start
}

/// Fills in size and count once the items are written.
pub(crate) fn finish_compound(buf: &mut BytesMut, start: usize, count: u32) {
    let size = len_u32(buf.len() - start - 4);
    if let Some(room) = buf.get_mut(start..start + 8) {
        let (size_room, count_room) = room.split_at_mut(4);
        size_room.copy_from_slice(&size.to_be_bytes());
        count_room.copy_from_slice(&count.to_be_bytes());
    }
}

/// Lengths here are bounded by the message limit; a longer one would be cut by the peer's decoder.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A `list32` that counts its fields itself.
#[derive(Debug)]
pub(crate) struct ListWriter<'a> {
    pub(crate) buf: &'a mut BytesMut,
    start: usize,
    count: u32,
}

impl<'a> ListWriter<'a> {
    pub(crate) fn start(buf: &'a mut BytesMut) -> Self {
        buf.put_u8(0xd0);
        let start = reserve_compound(buf);
        Self {
            buf,
            start,
            count: 0,
        }
    }

    pub(crate) fn described(buf: &'a mut BytesMut, code: u64) -> Self {
        put_descriptor(buf, code);
        Self::start(buf)
    }

    pub(crate) fn finish(self) {
        finish_compound(self.buf, self.start, self.count);
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        self.field(put_null)
    }

    pub(crate) fn nulls(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.null();
        }
        self
    }

    pub(crate) fn boolean(&mut self, flag: bool) -> &mut Self {
        self.field(|buf| put_bool(buf, flag))
    }

    pub(crate) fn ubyte(&mut self, n: u8) -> &mut Self {
        self.field(|buf| buf.put_slice(&[0x50, n]))
    }

    pub(crate) fn ushort(&mut self, n: u16) -> &mut Self {
        self.field(|buf| put_fixed(buf, 0x60, &n.to_be_bytes()))
    }

    pub(crate) fn uint(&mut self, n: u32) -> &mut Self {
        self.field(|buf| put_uint(buf, n))
    }

    pub(crate) fn uint_or_null(&mut self, n: Option<u32>) -> &mut Self {
        match n {
            Some(n) => self.uint(n),
            None => self.null(),
        }
    }

    pub(crate) fn ulong(&mut self, n: u64) -> &mut Self {
        self.field(|buf| put_ulong(buf, n))
    }

    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        self.field(|buf| put_str(buf, text))
    }

    pub(crate) fn symbol(&mut self, text: &str) -> &mut Self {
        self.field(|buf| put_symbol(buf, text))
    }

    pub(crate) fn value(&mut self, value: &Value) -> &mut Self {
        self.field(|buf| put_value(buf, value))
    }

    /// A field that is already encoded; nothing becomes null.
    pub(crate) fn raw(&mut self, encoded: Option<&[u8]>) -> &mut Self {
        self.field(|buf| buf.put_slice(encoded.unwrap_or(&[0x40])))
    }

    pub(crate) fn field(&mut self, write: impl FnOnce(&mut BytesMut)) -> &mut Self {
        write(self.buf);
        self.count += 1;
        self
    }
}
