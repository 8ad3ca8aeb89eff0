//! The log of a partition on disk: segments of batches, oldest first.
//!
//! A batch is one record, so that after a crash it is there as a whole or not at all. It is handed
//! to the operating system before receivers can see it and before its sender hears of it: killing
//! the process loses nothing that anybody knows of.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::log::{Edge, Retention, StoredEvent};
use crate::storage::{frame, sync_parent};

/// In the first record of a segment.
pub(super) const MAGIC: &[u8; 8] = b"EHEMU\0\0\x01";
/// Scratch memory kept between two writes.
const SCRATCH: usize = 1 << 20;

/// A file of batches, named by the sequence number it starts with.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: i64,
    pub(super) path: PathBuf,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    segments: VecDeque<Segment>,
    /// The newest segment, opened when first written to: many partitions never are.
    file: Option<File>,
    /// Length of the newest segment up to which it is whole.
    len: u64,
    segment_bytes: u64,
    is_synced: bool,
    scratch: Vec<u8>,
    /// A write failed and could not be taken back.
    is_broken: bool,
}

impl Journal {
    pub(super) fn new(
        directory: &Path,
        segments: VecDeque<Segment>,
        len: u64,
        retention: Retention,
        is_synced: bool,
    ) -> Self {
        // Some segments per retention, so that dropping one frees room in small steps.
        let segment_bytes = (retention.bytes as u64 / 8).clamp(256 << 10, 16 << 20);
        Self {
            directory: directory.to_owned(),
            segments,
            file: None,
            len,
            segment_bytes,
            is_synced,
            scratch: Vec::new(),
            is_broken: false,
        }
    }

    /// Writes a batch that starts where `edge` ends.
    pub(super) fn write(
        &mut self,
        edge: Edge,
        enqueued_ms: i64,
        events: &[StoredEvent],
    ) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH);
        put_batch(&mut self.scratch, edge, enqueued_ms, events)?;
        if self.segments.is_empty() || self.len >= self.segment_bytes {
            self.roll(edge)?;
        }
        if let Err(error) = self.write_scratch() {
            self.take_back();
            return Err(error);
        }
        self.len += self.scratch.len() as u64;
        Ok(())
    }

    /// Removes segments all of whose events are older than a sequence number.
    pub(super) fn drop_before(&mut self, begin: i64) {
        while self.segments.get(1).is_some_and(|next| next.base <= begin) {
            let Some(oldest) = self.segments.pop_front() else {
                return;
            };
            if let Err(error) = fs::remove_file(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "old events stay on disk");
            }
        }
    }

    fn write_scratch(&mut self) -> io::Result<()> {
        let len = self.len;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let newest = self.segments.back();
                let newest = newest.ok_or_else(|| io::Error::other("no segment"))?;
                let mut file = OpenOptions::new().write(true).open(&newest.path)?;
                file.seek(SeekFrom::Start(len))?;
                self.file.insert(file)
            }
        };
        file.write_all(&self.scratch)?;
        if self.is_synced {
            file.sync_data()?;
        }
        Ok(())
    }

    /// Cuts off what a failed write may have left.
    fn take_back(&mut self) {
        let len = self.len;
        let cut = self.file.as_mut().map_or(Ok(()), |file| {
            file.set_len(len)?;
            file.seek(SeekFrom::Start(len)).map(drop)
        });
        self.is_broken = cut.is_err();
    }

    /// Starts a new segment.
    fn roll(&mut self, edge: Edge) -> io::Result<()> {
        let base = edge.next_sequence_number;
        let path = self.directory.join(format!("{base:020}.log"));
        if self.segments.is_empty() {
            fs::create_dir_all(&self.directory)?;
        }
        let mut head = Vec::with_capacity(64);
        let at = frame::start(&mut head);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&base.to_le_bytes());
        head.extend_from_slice(&edge.next_offset.to_le_bytes());
        // Offsets start far above zero, which stands for none.
        head.extend_from_slice(&edge.last_offset.unwrap_or(0).to_le_bytes());
        head.extend_from_slice(&edge.last_enqueued_ms.to_le_bytes());
        frame::finish(&mut head, at);
        let mut file = File::create(&path)?;
        file.write_all(&head)?;
        if self.is_synced {
            file.sync_all()?;
            sync_parent(&path)?;
        }
        self.file = Some(file);
        self.len = head.len() as u64;
        self.segments.push_back(Segment { base, path });
        Ok(())
    }
}

fn put_batch(
    buf: &mut Vec<u8>,
    edge: Edge,
    enqueued_ms: i64,
    events: &[StoredEvent],
) -> io::Result<()> {
    let at = frame::start(buf);
    buf.extend_from_slice(&edge.next_sequence_number.to_le_bytes());
    buf.extend_from_slice(&edge.next_offset.to_le_bytes());
    buf.extend_from_slice(&enqueued_ms.to_le_bytes());
    buf.extend_from_slice(&length(events.len())?);
    for event in events {
        buf.extend_from_slice(&length(event.header_len)?);
        buf.extend_from_slice(&length(event.encoded.len())?);
        buf.extend_from_slice(&event.encoded);
    }
    if frame::finish(buf, at) {
        Ok(())
    } else {
        Err(io::Error::other("a batch too large to be stored"))
    }
}

fn length(len: usize) -> io::Result<[u8; 4]> {
    let len = u32::try_from(len).map_err(io::Error::other)?;
    Ok(len.to_le_bytes())
}
