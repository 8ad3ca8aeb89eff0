//! The stored blobs on disk: an append-only file of changes, rewritten when most of it is history.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    conditions::ETag,
    metadata::Metadata,
    state::{Blob, Container, ContentHeaders},
};
use crate::storage::{
    DataError,
    frame::{self, Fields, Found},
    replace,
};

/// Below this length the file is not rewritten.
const REWRITE_FROM: u64 = 4 << 20;

type Pairs = Vec<(String, String)>;

/// A change, as the head of a record; the content of a blob stands behind it.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Container {
        name: String,
        metadata: Pairs,
        etag: u64,
        modified: u64,
    },
    ContainerGone {
        name: String,
    },
    Blob {
        container: String,
        name: String,
        headers: ContentHeaders,
        metadata: Pairs,
        etag: u64,
        created: u64,
        modified: u64,
    },
    BlobGone {
        container: String,
        name: String,
    },
    /// The newest tag given, maybe to something that is gone.
    Tag {
        last: u64,
    },
}

/// What happened to the store.
#[derive(Debug)]
pub(super) enum Change<'a> {
    Container(&'a str, &'a Container),
    ContainerGone(&'a str),
    Blob(&'a str, &'a str, &'a Blob),
    BlobGone(&'a str, &'a str),
}

/// The containers of an account by name, and the newest tag.
pub(super) type State = (BTreeMap<String, Container>, u64);

/// The writing end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    is_synced: bool,
    file: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: fs::File,
    len: u64,
    /// Length after the last rewriting.
    base_len: u64,
    is_broken: bool,
}

impl Journal {
    /// Reads a file back, or starts one.
    pub(super) fn open(path: &Path, is_synced: bool) -> Result<(Self, State), DataError> {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(DataError::io(path)(error)),
        };
        let state = replay(path, &content)?;
        // History and a torn end go at once.
        let snapshot = snapshot(&state.0, state.1).map_err(DataError::io(path))?;
        replace(path, &snapshot, is_synced)?;
        let written = reopen(path, snapshot.len() as u64).map_err(DataError::io(path))?;
        let journal = Self {
            path: path.to_owned(),
            is_synced,
            file: Mutex::new(written),
        };
        Ok((journal, state))
    }

    /// Writes a change; it counts when this returns.
    pub(super) fn write(&self, change: &Change<'_>) -> io::Result<()> {
        let mut buf = Vec::new();
        put(&mut buf, change)?;
        let mut written = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        let mut result = written.file.write_all(&buf);
        if result.is_ok() && self.is_synced {
            result = written.file.sync_data();
        }
        match result {
            Ok(()) => written.len += buf.len() as u64,
            Err(_) => {
                let len = written.len;
                let cut = written.file.set_len(len);
                let back = cut.and_then(|()| written.file.seek(SeekFrom::Start(len)));
                written.is_broken = back.is_err();
            }
        }
        result
    }

    /// Rewrites the file if most of it is history. A failure leaves the old one in use.
    pub(super) fn tidy(&self, containers: &BTreeMap<String, Container>, last_etag: u64) {
        let mut written = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len < REWRITE_FROM.max(written.base_len.saturating_mul(4)) {
            return;
        }
        let rewritten = snapshot(containers, last_etag)
            .map_err(DataError::io(&self.path))
            .and_then(|content| {
                replace(&self.path, &content, self.is_synced)?;
                Ok(content.len() as u64)
            });
        match rewritten.map(|len| reopen(&self.path, len)) {
            Ok(Ok(fresh)) => *written = fresh,
            Ok(Err(error)) => {
                tracing::error!(%error, "the blob log cannot be opened again");
                // What is open has no name any more.
                written.is_broken = true;
            }
            Err(error) => tracing::warn!(%error, "the blob log could not be rewritten"),
        }
    }
}

fn reopen(path: &Path, len: u64) -> io::Result<Written> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(len))?;
    Ok(Written {
        file,
        len,
        base_len: len,
        is_broken: false,
    })
}

fn replay(path: &Path, content: &[u8]) -> Result<State, DataError> {
    let mut state = State::default();
    let mut at = 0;
    let damaged = |at: usize, what| DataError::Damaged {
        path: path.to_owned(),
        at: at as u64,
        what,
    };
    loop {
        match frame::look(content.get(at..).unwrap_or_default()) {
            Found::Payload(payload) => {
                apply(&mut state, payload).ok_or_else(|| damaged(at, "an unknown change"))?;
                at += frame::HEAD + payload.len();
            }
            Found::End => return Ok(state),
            Found::Torn => {
                let bytes = content.len() - at;
                tracing::warn!(
                    path = %path.display(), at, bytes,
                    "the last write was cut short; its rest is removed"
                );
                return Ok(state);
            }
            Found::Damaged => return Err(damaged(at, "a record that is not whole")),
        }
    }
}

fn apply((containers, last_etag): &mut State, payload: &[u8]) -> Option<()> {
    let mut fields = Fields(payload);
    let record: Record = serde_json::from_slice(fields.bytes()?).ok()?;
    let content = Bytes::copy_from_slice(fields.0);
    let tag = match record {
        Record::Container {
            name,
            metadata,
            etag,
            modified,
        } => {
            let container = Container {
                blobs: BTreeMap::new(),
                metadata: from_pairs(&metadata)?,
                etag: ETag(etag),
                last_modified: from_seconds(modified),
            };
            containers.insert(name, container);
            etag
        }
        Record::ContainerGone { name } => {
            containers.remove(&name);
            0
        }
        Record::Blob {
            container,
            name,
            headers,
            metadata,
            etag,
            created,
            modified,
        } => {
            let blob = Blob {
                content,
                headers,
                metadata: from_pairs(&metadata)?,
                etag: ETag(etag),
                created: from_seconds(created),
                last_modified: from_seconds(modified),
            };
            containers.get_mut(&container)?.blobs.insert(name, blob);
            etag
        }
        Record::BlobGone { container, name } => {
            containers.get_mut(&container)?.blobs.remove(&name);
            0
        }
        Record::Tag { last } => last,
    };
    *last_etag = tag.max(*last_etag);
    Some(())
}

fn snapshot(containers: &BTreeMap<String, Container>, last_etag: u64) -> io::Result<Vec<u8>> {
    let mut buf = Vec::new();
    put_record(&mut buf, &Record::Tag { last: last_etag }, &[])?;
    for (name, container) in containers {
        put(&mut buf, &Change::Container(name, container))?;
        for (blob_name, blob) in &container.blobs {
            put(&mut buf, &Change::Blob(name, blob_name, blob))?;
        }
    }
    Ok(buf)
}

fn put(buf: &mut Vec<u8>, change: &Change<'_>) -> io::Result<()> {
    let mut content: &[u8] = &[];
    let record = match *change {
        Change::Container(name, container) => Record::Container {
            name: name.to_owned(),
            metadata: to_pairs(&container.metadata),
            etag: container.etag.0,
            modified: to_seconds(container.last_modified),
        },
        Change::ContainerGone(name) => Record::ContainerGone {
            name: name.to_owned(),
        },
        Change::Blob(container, name, blob) => {
            content = &blob.content;
            Record::Blob {
                container: container.to_owned(),
                name: name.to_owned(),
                headers: blob.headers.clone(),
                metadata: to_pairs(&blob.metadata),
                etag: blob.etag.0,
                created: to_seconds(blob.created),
                modified: to_seconds(blob.last_modified),
            }
        }
        Change::BlobGone(container, name) => Record::BlobGone {
            container: container.to_owned(),
            name: name.to_owned(),
        },
    };
    put_record(buf, &record, content)
}

fn put_record(buf: &mut Vec<u8>, record: &Record, content: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(record)?;
    let len = u32::try_from(head.len()).map_err(io::Error::other)?;
    let at = frame::start(buf);
    buf.extend_from_slice(&len.to_le_bytes());
    buf.extend_from_slice(&head);
    buf.extend_from_slice(content);
    if frame::finish(buf, at) {
        Ok(())
    } else {
        Err(io::Error::other("a blob too large to be stored"))
    }
}

fn to_pairs(metadata: &Metadata) -> Pairs {
    let pairs = metadata.iter();
    pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn from_pairs(pairs: &Pairs) -> Option<Metadata> {
    let mut metadata = Metadata::default();
    for (name, value) in pairs {
        metadata.insert(name, value).ok()?;
    }
    Some(metadata)
}

/// Dates of the store are whole seconds.
fn to_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn from_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
