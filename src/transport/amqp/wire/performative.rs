//! What matters of performatives to somebody who looks over the shoulder of the AMQP library.

use super::read::{Allowance, Items, Malformed, Reader, Token};

pub(in crate::transport::amqp) const OPEN: u64 = 0x10;
pub(in crate::transport::amqp) const BEGIN: u64 = 0x11;
pub(in crate::transport::amqp) const ATTACH: u64 = 0x12;
pub(in crate::transport::amqp) const FLOW: u64 = 0x13;
pub(in crate::transport::amqp) const TRANSFER: u64 = 0x14;
pub(in crate::transport::amqp) const DETACH: u64 = 0x16;
pub(in crate::transport::amqp) const END: u64 = 0x17;

/// PROTOCOL: descriptor of an error.
const ERROR: u64 = 0x1d;

/// A performative, not looked into.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::amqp) struct Performative<'a> {
    pub(in crate::transport::amqp) code: u64,
    fields: Items<'a>,
    /// Bytes that it takes; a payload follows.
    pub(in crate::transport::amqp) len: usize,
}

impl<'a> Performative<'a> {
    /// Reads the start of a frame's body.
    pub(in crate::transport::amqp) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        match (reader.token()?, reader.token()?, reader.token()?) {
            (Token::Described, Token::U64(code), Token::List(fields)) => Ok(Self {
                code,
                fields,
                len: body.len() - reader.rest().len(),
            }),
            _ => Err(Malformed),
        }
    }

    /// Calls `field` with the index and the start of each field.
    fn each(&self, mut field: impl FnMut(usize, Token<'a>)) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.fields.bytes);
        let mut allowance = Allowance::default();
        for index in 0..self.fields.count {
            let token = reader.token()?;
            field(index, token);
            reader.skip_after(token, &mut allowance)?;
        }
        Ok(())
    }

    /// The encoded fields.
    fn encoded(&self) -> Result<Vec<&'a [u8]>, Malformed> {
        let mut reader = Reader::new(self.fields.bytes);
        let mut allowance = Allowance::default();
        let mut fields = Vec::with_capacity(self.fields.count);
        for _ in 0..self.fields.count {
            let from = reader.rest();
            reader.skip(&mut allowance)?;
            fields.push(&from[..from.len() - reader.rest().len()]);
        }
        Ok(fields)
    }

    /// The field with this index, if it is a number; `None` as well if it is left out or null.
    pub(in crate::transport::amqp) fn uint(&self, index: usize) -> Result<Option<u32>, Malformed> {
        let mut found = None;
        self.each(|at, token| {
            if let (true, Token::U32(number)) = (at == index, token) {
                found = Some(number);
            }
        })?;
        Ok(found)
    }

    /// The condition of the error in the field with this index.
    pub(in crate::transport::amqp) fn condition(
        &self,
        index: usize,
    ) -> Result<Option<&'a str>, Malformed> {
        let fields = self.encoded()?;
        let Some(field) = fields.get(index) else {
            return Ok(None);
        };
        let mut reader = Reader::new(field);
        let Token::Described = reader.token()? else {
            return Ok(None);
        };
        match (reader.token()?, reader.token()?) {
            (Token::U64(ERROR), Token::List(items)) if items.count > 0 => {
                match Reader::new(items.bytes).token()? {
                    Token::Symbol(condition) => Ok(Some(condition)),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }
}

/// What matters of a begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::transport::amqp) struct Begin {
    /// The channel of the begin that this one answers.
    pub(in crate::transport::amqp) remote_channel: Option<u16>,
    pub(in crate::transport::amqp) next_outgoing_id: u32,
}

impl Begin {
    pub(in crate::transport::amqp) fn read(begin: &Performative<'_>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        begin.each(|index, token| match (index, token) {
            (0, Token::U16(channel)) => read.remote_channel = Some(channel),
            (1, Token::U32(id)) => read.next_outgoing_id = id,
            _ => {}
        })?;
        Ok(read)
    }
}

/// What matters of an attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::transport::amqp) struct Attach<'a> {
    pub(in crate::transport::amqp) name: &'a str,
    pub(in crate::transport::amqp) handle: u32,
    pub(in crate::transport::amqp) is_receiver: bool,
    pub(in crate::transport::amqp) initial_delivery_count: u32,
}

impl<'a> Attach<'a> {
    pub(in crate::transport::amqp) fn read(attach: &Performative<'a>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        attach.each(|index, token| match (index, token) {
            (0, Token::String(name)) => read.name = name,
            (1, Token::U32(handle)) => read.handle = handle,
            (2, Token::Bool(role)) => read.is_receiver = role,
            (9, Token::U32(count)) => read.initial_delivery_count = count,
            _ => {}
        })?;
        Ok(read)
    }
}

/// What matters of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::transport::amqp) struct Transfer {
    pub(in crate::transport::amqp) handle: u32,
    pub(in crate::transport::amqp) delivery_id: Option<u32>,
    pub(in crate::transport::amqp) is_settled: bool,
    pub(in crate::transport::amqp) more: bool,
    pub(in crate::transport::amqp) is_aborted: bool,
}

impl Transfer {
    /// # Errors
    ///
    /// A field that matters is of the wrong type, or there is no handle.
    pub(in crate::transport::amqp) fn read(transfer: &Performative<'_>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut handle = None;
        let mut is_sound = true;
        transfer.each(|index, token| match (index, token) {
            (0, Token::U32(number)) => handle = Some(number),
            (1, Token::U32(id)) => read.delivery_id = Some(id),
            (4, Token::Bool(truth)) => read.is_settled = truth,
            (5, Token::Bool(truth)) => read.more = truth,
            (9, Token::Bool(truth)) => read.is_aborted = truth,
            (0 | 1 | 4 | 5 | 9, Token::Null) => {}
            (0 | 1 | 4 | 5 | 9, _) => is_sound = false,
            _ => {}
        })?;
        read.handle = handle.filter(|_| is_sound).ok_or(Malformed)?;
        Ok(read)
    }
}

/// The same frame with other numbers in some fields. `header` is what stands before the performative.
pub(in crate::transport::amqp) fn with_uints(
    header: &[u8],
    performative: &Performative<'_>,
    edits: &[(usize, u32)],
) -> Result<Vec<u8>, Malformed> {
    let numbers: Vec<[u8; 5]> = edits
        .iter()
        .map(|(_, number)| {
            let [a, b, c, d] = number.to_be_bytes();
            [0x70, a, b, c, d]
        })
        .collect();
    let mut fields = performative.encoded()?;
    for ((index, _), number) in edits.iter().zip(&numbers) {
        // Fields that were left out at the end are null.
        fields.resize(fields.len().max(index + 1), &[0x40]);
        fields[*index] = number;
    }
    let code = u8::try_from(performative.code).map_err(|_| Malformed)?;
    let count = u32::try_from(fields.len()).map_err(|_| Malformed)?;
    let fields = fields.concat();
    let len = u32::try_from(fields.len() + 4).map_err(|_| Malformed)?;
    let mut frame = [
        header,
        &[0x00, 0x53, code, 0xd0],
        &len.to_be_bytes(),
        &count.to_be_bytes(),
        &fields,
    ]
    .concat();
    let size = u32::try_from(frame.len()).map_err(|_| Malformed)?;
    match frame.first_chunk_mut() {
        Some(first) => *first = size.to_be_bytes(),
        None => return Err(Malformed),
    }
    Ok(frame)
}
