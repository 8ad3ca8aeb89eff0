//! Bytes on their way to a socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads from this size on are queued as they are, shared with the log; smaller ones are cheaper
/// to copy next to their frame header than to hand to the kernel as a slice of their own. With
/// events of 1 KiB, one reader gets twice as many of them by copying (see `benches/throughput.rs`).
const SHARE_FROM: usize = 4096;

/// A queue of encoded frames, in the order in which they were put in.
#[derive(Debug, Default)]
pub(crate) struct Output {
    sealed: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets `put` write to the end of the queue.
    pub(crate) fn write(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        put(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    /// Queues a payload behind what was written before it.
    pub(crate) fn push(&mut self, payload: Bytes) {
        if payload.len() < SHARE_FROM {
            self.write(|tail| tail.extend_from_slice(&payload));
        } else {
            self.len += payload.len();
            self.seal();
            self.sealed.push_back(payload);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.sealed.push_back(self.tail.split().freeze());
        }
    }
}

/// What the socket takes from. Nothing may be written between `chunk` and `advance`, which the
/// exclusive borrow sees to.
impl Buf for Output {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.sealed
            .front()
            .map_or(&self.tail[..], |bytes| &bytes[..])
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let tail = std::iter::once(&self.tail[..]).filter(|tail| !tail.is_empty());
        let chunks = self.sealed.iter().map(|bytes| &bytes[..]).chain(tail);
        let mut filled = 0;
        for (slot, chunk) in dst.iter_mut().zip(chunks) {
            *slot = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            match self.sealed.front_mut() {
                Some(front) if front.len() > count => return front.advance(count),
                Some(front) => {
                    count -= front.len();
                    self.sealed.pop_front();
                }
                None => return self.tail.advance(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_of_small_and_large_pieces() {
        let mut output = Output::default();
        let large = Bytes::from(vec![7_u8; SHARE_FROM]);
        output.write(|tail| tail.extend_from_slice(b"head"));
        output.push(large.clone());
        output.push(Bytes::from_static(b"small"));
        output.write(|tail| tail.extend_from_slice(b"tail"));
        let expected = [b"head", &large[..], b"smalltail"].concat();
        assert_eq!(output.len(), expected.len());

        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(output.chunks_vectored(&mut slices), 3);
        let mut got = Vec::new();
        while output.has_remaining() {
            let step = output.chunk().len().min(17);
            got.extend_from_slice(&output.chunk()[..step]);
            output.advance(step);
        }
        assert_eq!(got, expected);
    }
}
