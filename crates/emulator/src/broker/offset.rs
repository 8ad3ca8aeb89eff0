//! Offsets as clients see them.

use std::fmt;

/// Where an event is in its partition.
///
/// Without geo-replication it is written as a number. With it clients get
/// `<epoch>:<segment>:<number>`, which is no number, grows with every fail-over, and is to be taken
/// as a whole. That form is a guess: what is known of the service's is that it cannot be read as an
/// integer. The segment is always 0 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offset {
    pub(super) epoch: Option<u32>,
    pub(super) number: u64,
}

const SEGMENT: &str = "0";

impl Offset {
    /// Reads what clients send where offsets are of this epoch; others are none of this hub.
    pub(super) fn parse(text: &str, epoch: Option<u32>) -> Option<Self> {
        let Some(current) = epoch else {
            let number = text.parse().ok()?;
            return Some(Self { epoch, number });
        };
        let (head, number) = text.rsplit_once(':')?;
        let (given, segment) = head.split_once(':')?;
        let is_current = given.parse() == Ok(current) && segment == SEGMENT;
        let number = number.parse().ok().filter(|_| is_current)?;
        Some(Self { epoch, number })
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            None => write!(f, "{}", self.number),
            Some(epoch) => write!(f, "{epoch}:{SEGMENT}:{}", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read_back_in_its_own_epoch_only() {
        for epoch in [None, Some(1), Some(12)] {
            let offset = Offset { epoch, number: 77 };
            assert_eq!(Offset::parse(&offset.to_string(), epoch), Some(offset));
            for other in [None, Some(1), Some(2), Some(12)] {
                let is_same = other == epoch;
                let read = Offset::parse(&offset.to_string(), other);
                assert_eq!(read.is_some(), is_same, "{offset} in {other:?}");
            }
        }
        for text in [
            "", "77", "1:0", "1:0:", "1:0:x", "1:1:77", ":0:77", "1:0:0:77",
        ] {
            assert_eq!(Offset::parse(text, Some(1)), None, "{text}");
        }
    }
}
