//! Reading the log of a partition back from disk.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::journal::{Journal, MAGIC, Segment};
use super::log::{Edge, Retention, StoredEvent};
use crate::storage::DataError;
use crate::storage::frame::{self, Fields, Found};

/// A partition as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) journal: Journal,
    pub(super) events: Vec<StoredEvent>,
    /// Where the next event goes.
    pub(super) edge: Edge,
}

/// Reads all segments of a partition, and cuts off the end that a crash has left half-written.
pub(super) fn recover(
    directory: &Path,
    retention: Retention,
    is_synced: bool,
) -> Result<Recovered, DataError> {
    let mut found = segments(directory)?;
    let mut events = Vec::new();
    let mut edge = None;
    let mut last_len = 0;
    let mut torn_head = None;
    for (index, segment) in found.iter().enumerate() {
        let is_last = index + 1 == found.len();
        let content = Bytes::from(fs::read(&segment.path).map_err(DataError::io(&segment.path))?);
        let reading = Reading {
            path: &segment.path,
            content: &content,
            at: 0,
        };
        match reading.segment(is_last, edge, &mut events)? {
            Some((end, len)) => {
                edge = Some(end);
                last_len = len;
            }
            None => torn_head = Some(index),
        }
    }
    if let Some(index) = torn_head {
        // Only the newest can be: it was made and nothing was written to it.
        if let Some(segment) = found.remove(index) {
            fs::remove_file(&segment.path).map_err(DataError::io(&segment.path))?;
        }
        last_len = match found.back() {
            Some(newest) => {
                let meta = fs::metadata(&newest.path).map_err(DataError::io(&newest.path))?;
                meta.len()
            }
            None => 0,
        };
    }
    Ok(Recovered {
        journal: Journal::new(directory, found, last_len, retention, is_synced),
        events,
        edge: edge.unwrap_or_default(),
    })
}

fn segments(directory: &Path) -> Result<VecDeque<Segment>, DataError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        Err(error) => return Err(DataError::io(directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(DataError::io(directory))?.path();
        if let Some(base) = base_of(&path) {
            found.push(Segment { base, path });
        }
    }
    found.sort_by_key(|segment| segment.base);
    Ok(found.into())
}

fn base_of(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".log")?.parse().ok()
}

struct Reading<'a> {
    path: &'a PathBuf,
    content: &'a Bytes,
    at: usize,
}

impl<'a> Reading<'a> {
    /// Reads a segment; its end and length, or none if not even its first record is whole.
    fn segment(
        mut self,
        is_last: bool,
        before: Option<Edge>,
        events: &mut Vec<StoredEvent>,
    ) -> Result<Option<(Edge, u64)>, DataError> {
        let Some(head) = self.next(is_last)? else {
            return if is_last {
                Ok(None)
            } else {
                Err(self.damaged("no first record"))
            };
        };
        let mut edge = read_head(head).ok_or_else(|| self.damaged("not a log of this version"))?;
        if before.is_some_and(|before| before != edge) {
            return Err(self.damaged("a segment is missing in front of it"));
        }
        while let Some(batch) = self.next(is_last)? {
            let start = events.len();
            edge = read_batch(self.content, batch, edge, events)
                .ok_or_else(|| self.damaged("a batch out of place"))?;
            if events.len() == start {
                return Err(self.damaged("an empty batch"));
            }
        }
        if self.at < self.content.len() {
            self.cut()?;
        }
        Ok(Some((edge, self.at as u64)))
    }

    fn next(&mut self, is_last: bool) -> Result<Option<&'a [u8]>, DataError> {
        match frame::look(self.content.get(self.at..).unwrap_or_default()) {
            Found::Payload(payload) => {
                self.at += frame::HEAD + payload.len();
                Ok(Some(payload))
            }
            Found::End => Ok(None),
            Found::Torn if is_last => Ok(None),
            Found::Torn | Found::Damaged => Err(self.damaged("a record that is not whole")),
        }
    }

    fn cut(&self) -> Result<(), DataError> {
        let cut = self.content.len() - self.at;
        tracing::warn!(
            path = %self.path.display(), at = self.at, bytes = cut,
            "the last write was cut short; its rest is removed"
        );
        let file = OpenOptions::new().write(true).open(self.path);
        file.and_then(|file| file.set_len(self.at as u64))
            .map_err(DataError::io(self.path))
    }

    fn damaged(&self, what: &'static str) -> DataError {
        DataError::Damaged {
            path: self.path.clone(),
            at: self.at as u64,
            what,
        }
    }
}

fn read_head(payload: &[u8]) -> Option<Edge> {
    let mut fields = Fields(payload.strip_prefix(MAGIC)?);
    Some(Edge {
        next_sequence_number: fields.i64()?,
        next_offset: fields.u64()?,
        last_offset: fields
            .u64()
            .map(|offset| Some(offset).filter(|o| *o != 0))?,
        last_enqueued_ms: fields.i64()?,
    })
}

/// Adds the events of a batch, which share the memory of the segment, and returns the new end.
fn read_batch(
    content: &Bytes,
    payload: &[u8],
    edge: Edge,
    events: &mut Vec<StoredEvent>,
) -> Option<Edge> {
    let mut fields = Fields(payload);
    let (sequence_number, mut offset) = (fields.i64()?, fields.u64()?);
    let enqueued_ms = fields.i64()?;
    if sequence_number != edge.next_sequence_number || offset != edge.next_offset {
        return None;
    }
    let count = fields.u32()?;
    let mut last_offset = edge.last_offset;
    for _ in 0..count {
        let header_len = fields.u32()? as usize;
        let encoded = content.slice_ref(fields.bytes()?);
        if header_len > encoded.len() {
            return None;
        }
        last_offset = Some(offset);
        let next = offset + encoded.len() as u64;
        events.push(StoredEvent {
            encoded,
            header_len,
            offset,
            enqueued_ms,
        });
        offset = next;
    }
    Some(Edge {
        next_sequence_number: sequence_number + i64::from(count),
        next_offset: offset,
        last_offset,
        last_enqueued_ms: enqueued_ms,
    })
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
