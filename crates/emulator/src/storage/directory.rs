//! The directory itself: its lock, and the manifest of event hubs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fs4::fs_std::FileExt;
use serde::{Deserialize, Serialize};

use super::DataError;

const FORMAT: u32 = 1;
const LOCK: &str = "lock";
const MANIFEST: &str = "manifest.json";

/// An event hub as the manifest remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HubEntry {
    /// Names its directory.
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) created_ms: i64,
    #[serde(default)]
    pub(crate) consumer_groups: Vec<String>,
    /// The newest epoch of its offsets if it ever was geo-replicated, and 0 otherwise.
    #[serde(default)]
    pub(crate) geo_epoch: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    hubs: Vec<HubEntry>,
}

/// A data directory that this process has for itself.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    is_synced: bool,
    manifest: Mutex<Manifest>,
    /// Locked while this value lives; the operating system frees it when the process ends.
    lock: File,
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child process that another thread is starting right now: until it
        // executes its program it holds a copy of every open file.
        if let Err(error) = FileExt::unlock(&self.lock) {
            tracing::warn!(%error, "the data directory was not unlocked");
        }
    }
}

impl DataDir {
    /// Opens a directory, creating it if need be, and keeps others off it.
    pub(crate) fn open(root: &Path, is_synced: bool) -> Result<Self, DataError> {
        fs::create_dir_all(root).map_err(DataError::io(root))?;
        let lock_path = root.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(DataError::io(&lock_path))?;
        match FileExt::try_lock_exclusive(&lock) {
            Ok(true) => {}
            Ok(false) => {
                let path = root.to_owned();
                return Err(DataError::InUse { path });
            }
            Err(error) => return Err(DataError::io(&lock_path)(error)),
        }
        let manifest = Mutex::new(read_manifest(&root.join(MANIFEST))?);
        Ok(Self {
            root: root.to_owned(),
            is_synced,
            manifest,
            lock,
        })
    }

    /// Whether a write must have reached the disk before it counts.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(crate) fn hubs(&self) -> Vec<HubEntry> {
        let manifest = self.manifest.lock();
        manifest
            .unwrap_or_else(PoisonError::into_inner)
            .hubs
            .clone()
    }

    pub(crate) fn partition(&self, hub: u32, partition: usize) -> PathBuf {
        self.root
            .join("hubs")
            .join(hub.to_string())
            .join(partition.to_string())
    }

    pub(crate) fn blob_log(&self) -> PathBuf {
        self.root.join("blobs.log")
    }

    /// Remembers an event hub; its number is given here.
    pub(crate) fn add_hub(&self, mut entry: HubEntry) -> Result<HubEntry, DataError> {
        self.change(|hubs| {
            let highest = hubs.iter().map(|hub| hub.number).max();
            entry.number = highest.map_or(1, |number| number.saturating_add(1));
            hubs.push(entry.clone());
        })?;
        Ok(entry)
    }

    /// Remembers a change of an event hub.
    pub(crate) fn change_hub(
        &self,
        number: u32,
        change: impl FnOnce(&mut HubEntry),
    ) -> Result<(), DataError> {
        self.change(|hubs| {
            if let Some(hub) = hubs.iter_mut().find(|hub| hub.number == number) {
                change(hub);
            }
        })
    }

    /// Forgets an event hub and removes its events.
    pub(crate) fn remove_hub(&self, number: u32) -> Result<(), DataError> {
        // A crash in between leaves an event hub without events, which is what was wanted.
        let events = self.root.join("hubs").join(number.to_string());
        match fs::remove_dir_all(&events) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DataError::io(&events)(error));
            }
            _ => {}
        }
        self.change(|hubs| hubs.retain(|hub| hub.number != number))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<HubEntry>)) -> Result<(), DataError> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hubs = manifest.hubs.clone();
        change(&mut hubs);
        let changed = Manifest {
            format: FORMAT,
            hubs,
        };
        let path = self.root.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&changed)
            .map_err(|error| DataError::io(&path)(error.into()))?;
        replace(&path, &text, self.is_synced)?;
        *manifest = changed;
        Ok(())
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, DataError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Manifest {
                format: FORMAT,
                hubs: Vec::new(),
            });
        }
        Err(error) => return Err(DataError::io(path)(error)),
    };
    let unreadable = |what: String| DataError::Manifest {
        path: path.to_owned(),
        what,
    };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(unreadable(format!("format {}", manifest.format)));
    }
    Ok(manifest)
}

/// Writes a file so that a crash leaves either the old or the new one.
pub(crate) fn replace(path: &Path, content: &[u8], is_synced: bool) -> Result<(), DataError> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(content)?;
        if is_synced {
            file.sync_all()?;
        }
        fs::rename(&fresh, path)?;
        if is_synced {
            sync_parent(path)?;
        }
        Ok(())
    };
    write().map_err(DataError::io(path))
}

/// Makes new names in a directory last.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    // Windows cannot open a directory, and needs no such call.
    match path.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cannot_have_one_directory_and_hubs_are_remembered() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path(), false).unwrap();
        assert!(matches!(
            DataDir::open(root.path(), false),
            Err(DataError::InUse { .. })
        ));
        let entry = HubEntry {
            number: 0,
            name: "../..".to_owned(),
            partitions: 2,
            created_ms: 5,
            consumer_groups: Vec::new(),
            geo_epoch: 0,
        };
        let entry = first.add_hub(entry).unwrap();
        first
            .change_hub(entry.number, |hub| hub.partitions = 3)
            .unwrap();
        assert!(first.partition(entry.number, 0).starts_with(root.path()));
        drop(first);
        let hubs = DataDir::open(root.path(), false).unwrap().hubs();
        assert_eq!((hubs.len(), hubs[0].partitions), (1, 3));
        fs::write(root.path().join(MANIFEST), "{\"format\":2,\"hubs\":[]}").unwrap();
        assert!(matches!(
            DataDir::open(root.path(), false),
            Err(DataError::Manifest { .. })
        ));
    }
}
