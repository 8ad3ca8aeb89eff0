//! Records in append-only files: length, CRC32, payload.

/// Bytes in front of a payload.
pub(crate) const HEAD: usize = 8;
/// No record is longer: a batch is at most 1 MiB of messages plus what a partition adds to each.
const MAX_PAYLOAD: usize = 64 << 20;

/// What stands at a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole record.
    Payload(&'a [u8]),
    /// The end of the file.
    End,
    /// The rest of a write that a crash has cut short.
    Torn,
    /// A bad record with a good one behind it: no crash does that.
    Damaged,
}

/// Starts a record at the end of `buf`; the payload is written behind it.
pub(crate) fn start(buf: &mut Vec<u8>) -> usize {
    let at = buf.len();
    buf.extend_from_slice(&[0; HEAD]);
    at
}

/// Completes the record that starts at `at`; false if it is too long to be read again.
pub(crate) fn finish(buf: &mut [u8], at: usize) -> bool {
    let Some((head, payload)) = buf
        .get_mut(at..)
        .and_then(|record| record.split_at_mut_checked(HEAD))
    else {
        return false;
    };
    let Some(len) = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
    else {
        return false;
    };
    let len = len.to_le_bytes();
    let (to_len, to_crc) = head.split_at_mut(4);
    to_len.copy_from_slice(&len);
    to_crc.copy_from_slice(&checksum(len, payload).to_le_bytes());
    true
}

/// Looks at the record at the start of `bytes`.
pub(crate) fn look(bytes: &[u8]) -> Found<'_> {
    if bytes.is_empty() {
        return Found::End;
    }
    match split(bytes) {
        None => Found::Torn,
        Some((payload, _, true)) => Found::Payload(payload),
        Some((_, rest, false)) => match split(rest) {
            Some((_, _, true)) => Found::Damaged,
            _ => Found::Torn,
        },
    }
}

/// Payload, what is behind it, and whether the checksum is right.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let (&len, rest) = bytes.split_first_chunk::<4>()?;
    let (&crc, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(len) as usize;
    if size > MAX_PAYLOAD {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(size)?;
    Some((
        payload,
        rest,
        checksum(len, payload) == u32::from_le_bytes(crc),
    ))
}

/// The length is covered, so that a run of zeros is no record.
fn checksum(len: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(payload);
    hasher.finalize()
}

/// Fixed-size fields of a payload, read one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    /// Bytes behind their length.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let mut buf = Vec::new();
        let at = start(&mut buf);
        buf.extend_from_slice(payload);
        assert!(finish(&mut buf, at));
        buf
    }

    #[test]
    fn a_record_cut_anywhere_is_torn_and_never_something_else() {
        let whole = record(b"payload");
        assert_eq!(look(&whole), Found::Payload(b"payload"));
        assert_eq!(look(&[]), Found::End);
        for len in 1..whole.len() {
            assert_eq!(look(&whole[..len]), Found::Torn, "{len}");
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let whole = record(b"payload");
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            assert_eq!(look(&bad), Found::Torn, "{at}");
        }
        let mut damaged = [whole.clone(), whole.clone()].concat();
        damaged[HEAD] ^= 1;
        assert_eq!(look(&damaged), Found::Damaged);
        assert_eq!(look(&[0; 4096]), Found::Torn);
    }
}
