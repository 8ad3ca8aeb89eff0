//! A client that is as fast as a client can be: blocking, byte by byte, for one purpose at a time.
#![allow(dead_code, reason = "each user needs a part of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SELECTOR: &str = "apache.org:selector-filter:string";
const READ: usize = 512 * 1024;

pub(crate) const ATTACH: u8 = 0x12;
pub(crate) const FLOW: u8 = 0x13;
pub(crate) const TRANSFER: u8 = 0x14;
pub(crate) const DISPOSITION: u8 = 0x15;
pub(crate) const CLOSE: u8 = 0x18;

/// An open connection with one session.
pub(crate) struct Raw {
    stream: TcpStream,
    buf: Vec<u8>,
    from: usize,
    to: usize,
}

/// A `close` without an error.
pub(crate) fn close() -> Vec<u8> {
    List::new(CLOSE).to_frame()
}

/// A frame's performative: its code, and what is behind the descriptor.
pub(crate) type Frame<'a> = (u8, &'a [u8]);

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut raw = Self {
            stream,
            buf: vec![0; READ],
            from: 0,
            to: 0,
        };
        let mut hello = b"AMQP\x00\x01\x00\x00".to_vec();
        let mut open = List::new(0x10);
        open.string("raw").null().uint(65_536);
        open.frame(&mut hello);
        let mut begin = List::new(0x11);
        begin.null().uint(0).uint(u32::MAX).uint(u32::MAX);
        begin.frame(&mut hello);
        raw.send(&hello)?;
        raw.fill(8)?;
        raw.from += 8;
        raw.wait_for(0x11)?;
        Ok(raw)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    pub(crate) fn attach_sender(&mut self, handle: u32, address: &str) -> io::Result<()> {
        let mut attach = List::new(ATTACH);
        attach.string(&format!("sender-{handle}")).uint(handle);
        attach.boolean(false).null().null();
        attach.list(&List::new(0x28)).list(&terminus(0x29, address));
        attach.null().null().uint(0);
        self.send(&attach.to_frame())?;
        self.wait_for(ATTACH)
    }

    /// Attaches a receiver that starts at the first event, without credit.
    pub(crate) fn attach_receiver(&mut self, handle: u32, address: &str) -> io::Result<()> {
        let mut source = terminus(0x28, address);
        for _ in 0..6 {
            source.null();
        }
        source.filter("amqp.annotation.x-opt-offset > '-1'");
        let mut attach = List::new(ATTACH);
        attach.string(&format!("receiver-{handle}")).uint(handle);
        attach.boolean(true).ubyte(1).null();
        attach.list(&source).list(&List::new(0x29));
        self.send(&attach.to_frame())?;
        self.wait_for(ATTACH)
    }

    pub(crate) fn detach(&mut self, handle: u32) -> io::Result<()> {
        let mut detach = List::new(0x16);
        detach.uint(handle).boolean(true);
        self.send(&detach.to_frame())
    }

    /// Gives credit for as many events as there may be.
    pub(crate) fn grant(&mut self, handle: u32, credit: u32) -> io::Result<()> {
        let mut flow = List::new(FLOW);
        flow.uint(0).uint(u32::MAX).uint(0).uint(u32::MAX);
        flow.uint(handle).uint(0).uint(credit);
        self.send(&flow.to_frame())
    }

    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.send(&List::new(CLOSE).to_frame())?;
        self.wait_for(CLOSE)
    }

    /// The next frame that is no heartbeat.
    pub(crate) fn next(&mut self) -> io::Result<Frame<'_>> {
        loop {
            self.fill(4)?;
            let size = self.buf[self.from..self.from + 4].try_into();
            let size = u32::from_be_bytes(size.map_err(io::Error::other)?) as usize;
            self.fill(size)?;
            let at = self.from;
            self.from += size;
            if size > 8 {
                let body = &self.buf[at + 8..at + size];
                return Ok((body[2], &body[3..]));
            }
        }
    }

    pub(crate) fn wait_for(&mut self, code: u8) -> io::Result<()> {
        loop {
            let (got, _) = self.next()?;
            if got == code {
                return Ok(());
            }
            if got == CLOSE {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// Reads once, and counts the transfers that are whole without looking into them.
    pub(crate) fn count_transfers(&mut self) -> io::Result<u64> {
        self.read_more(4)?;
        let mut count = 0;
        loop {
            let there = &self.buf[self.from..self.to];
            let Some(size) = there.first_chunk::<4>() else {
                return Ok(count);
            };
            let size = u32::from_be_bytes(*size) as usize;
            if there.len() < size {
                return Ok(count);
            }
            if size > 8 {
                count += u64::from(there[10] == TRANSFER);
            }
            self.from += size;
        }
    }

    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.to - self.from < wanted {
            self.read_more(wanted)?;
        }
        Ok(())
    }

    fn read_more(&mut self, wanted: usize) -> io::Result<()> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
        if self.from + wanted > self.buf.len() || self.to == self.buf.len() {
            self.buf.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        match self.stream.read(&mut self.buf[self.to..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.to += count;
                Ok(())
            }
        }
    }
}

fn terminus(code: u8, address: &str) -> List {
    let mut terminus = List::new(code);
    terminus.string(address);
    terminus
}

/// A frame with an event of one data section.
pub(crate) fn transfer(handle: u32, delivery_id: u32, body: &[u8]) -> Vec<u8> {
    let mut head = List::new(TRANSFER);
    head.uint(handle).uint(delivery_id);
    head.binary(&delivery_id.to_be_bytes())
        .uint(0)
        .boolean(false);
    let mut frame = head.to_frame();
    frame.extend_from_slice(&[0x00, 0x53, 0x75, 0xb0]);
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    let size = (frame.len() as u32).to_be_bytes();
    frame[..4].copy_from_slice(&size);
    frame
}

/// The sequence number and the body of a transfer with one data section.
pub(crate) fn event(transfer: &[u8]) -> (i64, &[u8]) {
    const NAME: &[u8] = b"x-opt-sequence-number";
    let at = position(transfer, NAME) + NAME.len();
    let number = match transfer[at] {
        0x55 => i64::from(transfer[at + 1] as i8),
        0x81 => i64::from_be_bytes(transfer[at + 1..at + 9].try_into().unwrap()),
        other => panic!("{other:#x} is no long"),
    };
    let data = at + position(&transfer[at..], b"\x00\x53\x75\xb0");
    (number, &transfer[data + 8..])
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut windows = bytes.windows(wanted.len());
    windows.position(|window| window == wanted).unwrap()
}

/// The numbers in the fields of a performative; anything else is `None`. Booleans are 0 and 1.
pub(crate) fn numbers(mut list: &[u8]) -> Vec<Option<u64>> {
    list = match list[0] {
        0xc0 => &list[3..],
        0xd0 => &list[9..],
        _ => &[],
    };
    let mut numbers = Vec::new();
    while !list.is_empty() {
        let be = |at: usize, len: usize| {
            list[at..at + len]
                .iter()
                .fold(0, |n, b| n << 8 | u64::from(*b))
        };
        let (number, len) = match list[0] {
            0x41 => (Some(1), 1),
            0x42..=0x44 => (Some(0), 1),
            0x50 | 0x52 | 0x53 | 0x56 => (Some(be(1, 1)), 2),
            0x60 => (Some(be(1, 2)), 3),
            0x70 => (Some(be(1, 4)), 5),
            0x80 => (Some(be(1, 8)), 9),
            // What stands behind the numbers of interest is not looked at.
            _ => break,
        };
        numbers.push(number);
        list = &list[len..];
    }
    numbers
}

/// A described list in the making.
pub(crate) struct List {
    code: u8,
    count: u32,
    fields: Vec<u8>,
}

impl List {
    pub(crate) fn new(code: u8) -> Self {
        Self {
            code,
            count: 0,
            fields: Vec::new(),
        }
    }

    fn put(&mut self, code: u8, bytes: &[u8]) -> &mut Self {
        self.count += 1;
        self.fields.push(code);
        self.fields.extend_from_slice(bytes);
        self
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        self.put(0x40, &[])
    }

    pub(crate) fn boolean(&mut self, flag: bool) -> &mut Self {
        self.put(0x56, &[u8::from(flag)])
    }

    pub(crate) fn ubyte(&mut self, n: u8) -> &mut Self {
        self.put(0x50, &[n])
    }

    pub(crate) fn uint(&mut self, n: u32) -> &mut Self {
        self.put(0x70, &n.to_be_bytes())
    }

    pub(crate) fn binary(&mut self, bytes: &[u8]) -> &mut Self {
        let counted = [&[bytes.len() as u8], bytes].concat();
        self.put(0xa0, &counted)
    }

    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        let counted = [&[text.len() as u8], text.as_bytes()].concat();
        self.put(0xa1, &counted)
    }

    pub(crate) fn list(&mut self, list: &Self) -> &mut Self {
        let encoded = list.encoded();
        self.put(encoded[0], &encoded[1..])
    }

    fn filter(&mut self, text: &str) -> &mut Self {
        let mut entry = Self::new(0);
        entry.symbol();
        entry.put(0x00, &[]).symbol().string(text);
        let size = (entry.fields.len() as u32 + 4).to_be_bytes();
        let map = [&size[..], &2_u32.to_be_bytes(), &entry.fields].concat();
        self.put(0xd1, &map)
    }

    fn symbol(&mut self) -> &mut Self {
        let counted = [&[SELECTOR.len() as u8], SELECTOR.as_bytes()].concat();
        self.put(0xa3, &counted)
    }

    fn encoded(&self) -> Vec<u8> {
        let mut buf = vec![0x00, 0x53, self.code, 0xd0];
        buf.extend_from_slice(&(self.fields.len() as u32 + 4).to_be_bytes());
        buf.extend_from_slice(&self.count.to_be_bytes());
        buf.extend_from_slice(&self.fields);
        buf
    }

    pub(crate) fn to_frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.frame(&mut frame);
        frame
    }

    pub(crate) fn frame(&self, buf: &mut Vec<u8>) {
        let body = self.encoded();
        buf.extend_from_slice(&(body.len() as u32 + 8).to_be_bytes());
        buf.extend_from_slice(&[2, 0, 0, 0]);
        buf.extend_from_slice(&body);
    }
}
