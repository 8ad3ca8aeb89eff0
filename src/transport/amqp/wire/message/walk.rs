//! The walk over an encoded message: where everything is, and whether all of it can be decoded. Pure.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::super::super::convert::system_time;
use super::super::read::{Allowance, Items, Malformed, Reader, Token};

pub(super) const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
pub(super) const OFFSET: &str = "x-opt-offset";
pub(super) const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
pub(super) const PARTITION_KEY: &str = "x-opt-partition-key";

/// Fields of the properties section.
const PROPERTIES: usize = 13;

/// A part of the encoded message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The place of `part`, which is a slice of `raw`.
    fn of(raw: &[u8], part: &[u8]) -> Result<Self, Malformed> {
        let start = (part.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize);
        // Messages of four gigabytes are not received.
        let start = u32::try_from(start).map_err(|_| Malformed)?;
        let len = u32::try_from(part.len()).map_err(|_| Malformed)?;
        let end = start.checked_add(len).ok_or(Malformed)?;
        Ok(Self { start, end })
    }

    pub(super) fn get(self, raw: &[u8]) -> &[u8] {
        raw.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    pub(super) fn text(self, raw: &[u8]) -> &str {
        std::str::from_utf8(self.get(raw)).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) enum Body {
    Empty,
    Data(Span),
    /// Several data sections, joined.
    Joined(Bytes),
    /// The value, and its bytes if it is text or binary.
    Value(Span, Option<Span>),
    /// The lists, one behind the other, each with its descriptor.
    Sequence(Span),
}

/// Where things are in a message that can be decoded.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) delivery_annotations: Option<Span>,
    pub(super) message_annotations: Option<Span>,
    pub(super) properties: Option<Span>,
    pub(super) application_properties: Option<Span>,
    pub(super) partition_key: Option<Span>,
    pub(super) offset: Option<Span>,
    pub(super) body: Body,
}

/// The position, as far as it has been found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found<'a> {
    pub(super) sequence_number: Option<i64>,
    pub(super) offset: Option<&'a str>,
    pub(super) enqueued_time: Option<SystemTime>,
    pub(super) partition_key: Option<&'a str>,
}

/// The sections that have come.
#[derive(Default)]
struct Sections<'a> {
    header: bool,
    delivery_annotations: Option<&'a [u8]>,
    message_annotations: Option<&'a [u8]>,
    properties: Option<&'a [u8]>,
    application_properties: Option<&'a [u8]>,
    footer: bool,
    /// The first data section, and those behind it.
    data: Option<&'a [u8]>,
    more_data: Vec<&'a [u8]>,
    value: Option<(&'a [u8], Option<&'a [u8]>)>,
    /// From the first sequence section on, and up to the last.
    sequences: Option<(&'a [u8], &'a [u8])>,
}

/// Walks over a whole message.
pub(super) fn walk<'a>(raw: &'a Bytes, found: &mut Found<'a>) -> Result<Layout, Malformed> {
    let mut reader = Reader::new(raw);
    let mut allowance = Allowance::default();
    let mut sections = Sections::default();
    while !reader.is_at_end() {
        section(&mut reader, &mut sections, found, &mut allowance)?;
    }
    let span = |part: Option<&[u8]>| part.map(|part| Span::of(raw, part)).transpose();
    let bodies = [
        sections.data.is_some(),
        sections.value.is_some(),
        sections.sequences.is_some(),
    ];
    if bodies.iter().filter(|is_there| **is_there).count() > 1 {
        return Err(Malformed);
    }
    let body = match (sections.data, sections.value, sections.sequences) {
        (Some(data), ..) if sections.more_data.is_empty() => Body::Data(Span::of(raw, data)?),
        (Some(data), ..) => Body::Joined(join(data, &sections.more_data)),
        (_, Some((value, bytes)), _) => Body::Value(Span::of(raw, value)?, span(bytes)?),
        (_, _, Some((from, behind))) => {
            let len = from.len().checked_sub(behind.len()).ok_or(Malformed)?;
            let lists = from.get(..len).ok_or(Malformed)?;
            Body::Sequence(Span::of(raw, lists)?)
        }
        _ => Body::Empty,
    };
    Ok(Layout {
        delivery_annotations: span(sections.delivery_annotations)?,
        message_annotations: span(sections.message_annotations)?,
        properties: span(sections.properties)?,
        application_properties: span(sections.application_properties)?,
        partition_key: span(found.partition_key.map(str::as_bytes))?,
        offset: span(found.offset.map(str::as_bytes))?,
        body,
    })
}

fn join(first: &[u8], more: &[&[u8]]) -> Bytes {
    let len = more.iter().map(|data| data.len()).sum::<usize>() + first.len();
    let mut joined = BytesMut::with_capacity(len);
    joined.extend_from_slice(first);
    for data in more {
        joined.extend_from_slice(data);
    }
    joined.freeze()
}

/// Walks over the next section.
fn section<'a>(
    reader: &mut Reader<'a>,
    sections: &mut Sections<'a>,
    found: &mut Found<'a>,
    allowance: &mut Allowance,
) -> Result<(), Malformed> {
    let from = reader.rest();
    // PROTOCOL: sections are described by number; nobody writes their names.
    let Token::Described = reader.token()? else {
        return Err(Malformed);
    };
    let Token::U64(code) = reader.token()? else {
        return Err(Malformed);
    };
    let content = reader.rest();
    let token = reader.token()?;
    match (code, token) {
        (0x70, Token::List(_)) => {
            reader.skip_after(token, allowance)?;
            once(&mut sections.header)
        }
        (0x71, Token::Map(_)) => {
            reader.skip_after(token, allowance)?;
            put(&mut sections.delivery_annotations, content, reader)
        }
        (0x72, Token::Map(items)) => {
            annotations(items, found, allowance)?;
            put(&mut sections.message_annotations, content, reader)
        }
        (0x73, Token::List(items)) => {
            properties(items)?;
            put(&mut sections.properties, content, reader)
        }
        (0x74, Token::Map(items)) => {
            application_properties(items, allowance)?;
            put(&mut sections.application_properties, content, reader)
        }
        (0x75, Token::Binary(data)) => {
            match sections.data {
                None => sections.data = Some(data),
                Some(_) => sections.more_data.push(data),
            }
            Ok(())
        }
        (0x76, Token::List(_)) => {
            reader.skip_after(token, allowance)?;
            // PROTOCOL: the sections of a body follow one another.
            let first = match sections.sequences {
                None => from,
                Some((first, behind)) if behind.len() == from.len() => first,
                Some(_) => return Err(Malformed),
            };
            sections.sequences = Some((first, reader.rest()));
            Ok(())
        }
        (0x77, _) => {
            reader.skip_after(token, allowance)?;
            let bytes = match token {
                Token::Binary(bytes) => Some(bytes),
                Token::String(text) | Token::Symbol(text) => Some(text.as_bytes()),
                _ => None,
            };
            let mut value = None;
            put(&mut value, content, reader)?;
            let value = value.map(|value| (value, bytes));
            match sections.value {
                None => sections.value = value,
                Some(_) => return Err(Malformed),
            }
            Ok(())
        }
        (0x78, Token::Map(_)) => {
            reader.skip_after(token, allowance)?;
            once(&mut sections.footer)
        }
        _ => Err(Malformed),
    }
}

fn once(section: &mut bool) -> Result<(), Malformed> {
    match std::mem::replace(section, true) {
        false => Ok(()),
        true => Err(Malformed),
    }
}

/// Notes a section that may come once: from `content` to where the reader is now.
fn put<'a>(
    section: &mut Option<&'a [u8]>,
    content: &'a [u8],
    reader: &Reader<'a>,
) -> Result<(), Malformed> {
    let len = content.len() - reader.rest().len();
    match section.replace(&content[..len]) {
        None => Ok(()),
        Some(_) => Err(Malformed),
    }
}

/// Walks over the message annotations and picks out the position. What is there in another type is not there.
fn annotations<'a>(
    items: Items<'a>,
    found: &mut Found<'a>,
    allowance: &mut Allowance,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(items.bytes);
    for _ in 0..items.count / 2 {
        let key = reader.token()?;
        reader.skip_after(key, allowance)?;
        let value = reader.token()?;
        reader.skip_after(value, allowance)?;
        let Token::Symbol(key) = key else {
            continue;
        };
        match (key, value) {
            (SEQUENCE_NUMBER, Token::I64(number)) => found.sequence_number = Some(number),
            (OFFSET, Token::String(text)) if !text.is_empty() => found.offset = Some(text),
            (ENQUEUED_TIME, Token::Timestamp(millis)) => found.enqueued_time = system_time(millis),
            (PARTITION_KEY, Token::String(text) | Token::Symbol(text)) => {
                found.partition_key = Some(text);
            }
            _ => {}
        }
    }
    at_end(&reader)
}

fn at_end(reader: &Reader<'_>) -> Result<(), Malformed> {
    match reader.is_at_end() {
        true => Ok(()),
        false => Err(Malformed),
    }
}

/// Walks over the standard properties: each has its type.
fn properties(items: Items<'_>) -> Result<(), Malformed> {
    if items.count > PROPERTIES {
        return Err(Malformed);
    }
    let mut reader = Reader::new(items.bytes);
    for index in 0..items.count {
        let token = reader.token()?;
        let fits = matches!(
            (index, token),
            (_, Token::Null)
                | (
                    0 | 5,
                    Token::U64(_) | Token::Uuid(_) | Token::Binary(_) | Token::String(_)
                )
                | (1, Token::Binary(_))
                | (2..=4 | 6 | 7 | 10 | 12, Token::String(_) | Token::Symbol(_))
                | (8 | 9, Token::Timestamp(_))
                | (11, Token::U32(_))
        );
        if !fits {
            return Err(Malformed);
        }
    }
    at_end(&reader)
}

/// Walks over the application properties: each has a name.
fn application_properties(items: Items<'_>, allowance: &mut Allowance) -> Result<(), Malformed> {
    let mut reader = Reader::new(items.bytes);
    for _ in 0..items.count / 2 {
        let Token::String(_) = reader.token()? else {
            return Err(Malformed);
        };
        reader.skip(allowance)?;
    }
    at_end(&reader)
}
