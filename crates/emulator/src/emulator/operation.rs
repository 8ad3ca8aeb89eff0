//! Settings for running an emulator for longer than a test: data, limits, configuration files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::config::{self, ConfigError};
use super::{EmulatorBuilder, StartError};
use crate::blob::{BlobOptions, BlobStore};
use crate::broker::{Broker, Budget, Clock, Retention, Settings};
use crate::storage::DataDir;

/// Memory for the events of all partitions unless told otherwise.
const DEFAULT_MEMORY: usize = 2 << 30;

#[derive(Debug, Clone)]
pub(super) struct Operation {
    data_dir: Option<PathBuf>,
    is_synced: bool,
    max_age: Option<Duration>,
    memory: usize,
    throughput_units: Option<u32>,
    has_strict_groups: bool,
    is_geo_replicated: bool,
    pub(super) is_like_azurite: bool,
    /// Event hubs and consumer groups in them.
    pub(super) groups: Vec<(String, String)>,
}

impl Default for Operation {
    fn default() -> Self {
        Self {
            data_dir: None,
            is_synced: false,
            max_age: None,
            memory: DEFAULT_MEMORY,
            throughput_units: None,
            has_strict_groups: false,
            is_geo_replicated: false,
            is_like_azurite: false,
            groups: Vec::new(),
        }
    }
}

impl Operation {
    pub(super) fn has_data_dir(&self) -> bool {
        self.data_dir.is_some()
    }

    /// What was stored, or nothing: the event hubs, and where blobs are to be kept.
    pub(super) fn open(
        &self,
        retention: Retention,
        clock: Clock,
        blobs: BlobOptions,
    ) -> Result<(Broker, BlobOptions), StartError> {
        let settings = Settings {
            max_age: self.max_age,
            budget: Arc::new(Budget::new(self.memory)),
            throughput_units: self.throughput_units,
            has_strict_groups: self.has_strict_groups,
            is_geo_replicated: self.is_geo_replicated,
            ..Settings::new(retention, clock)
        };
        let Some(root) = &self.data_dir else {
            return Ok((Broker::open(settings, None)?, blobs));
        };
        let data = Arc::new(DataDir::open(root, self.is_synced)?);
        let path = data.blob_log();
        let store = BlobStore::open(&path, self.is_synced, blobs.limits, blobs.deviations)?;
        let blobs = BlobOptions {
            store: Some(store),
            ..blobs
        };
        Ok((Broker::open(settings, Some(data))?, blobs))
    }
}

impl EmulatorBuilder {
    /// Keeps event hubs, events and blobs in a directory, and starts with what is there.
    ///
    /// What a sender was told is accepted, or a receiver has seen, is there again after the process
    /// was killed: it was handed to the operating system before. [`with_fsync`](Self::with_fsync)
    /// also covers the loss of power. Sequence numbers, offsets and times go on where they were.
    /// The directory is locked against a second emulator. Events are in memory as well, so
    /// retention bounds both.
    pub fn with_data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.operation.data_dir = Some(path.into());
        self
    }

    /// Waits for the disk before anything counts as stored; slow, and of use only with a data
    /// directory.
    pub fn with_fsync(mut self, is_synced: bool) -> Self {
        self.operation.is_synced = is_synced;
        self
    }

    /// Drops events that are older than this, the newest included. Without it age does not matter.
    pub fn with_retention_age(mut self, age: Duration) -> Self {
        self.operation.max_age = Some(age);
        self
    }

    /// Sets the memory that the events of all partitions may take together; the default is 2 GiB.
    ///
    /// When it is used up, the largest partition drops its oldest events, down to its newest one.
    pub fn with_memory_budget(mut self, bytes: usize) -> Self {
        self.operation.memory = bytes;
        self
    }

    /// Limits every event hub to so many throughput units; the default is no limit.
    ///
    /// A unit takes 1 MB or 1000 events a second, whichever is reached first; what is beyond that
    /// is refused with `com.microsoft:server-busy`. It gives 2 MB a second; receivers wait for more.
    pub fn with_throughput_units(mut self, units: u32) -> Self {
        self.operation.throughput_units = Some(units.max(1));
        self
    }

    /// Names a consumer group of an event hub that [`with_hub`](Self::with_hub) adds.
    pub fn with_consumer_group(mut self, hub: impl Into<String>, group: impl Into<String>) -> Self {
        self.operation.groups.push((hub.into(), group.into()));
        self
    }

    /// Refuses receivers of consumer groups that nobody has named; `$Default` is always there.
    /// Without it a consumer group exists as soon as somebody reads in it.
    pub fn with_strict_groups(mut self, are_strict: bool) -> Self {
        self.operation.has_strict_groups = are_strict;
        self
    }

    /// Behaves as a geo-replicated namespace does: offsets are text that is no number,
    /// `com.microsoft:georeplication` is offered to those who desire it and
    /// `georeplication_factor` is 2. A receiver that starts at an offset which is a number, is older
    /// than the last [fail-over](crate::Faults::fail_over), or that does not desire the capability is
    /// refused with `com.microsoft:georeplication:invalid-offset`.
    ///
    /// A data directory may be used with and without it in turn; its events get offsets of the form
    /// that is asked for.
    pub fn with_geo_replication(mut self, is_replicated: bool) -> Self {
        self.operation.is_geo_replicated = is_replicated;
        self
    }

    /// Has the blob side answer as Azurite 3.35 does where that is not as Azure does: Set Blob
    /// Metadata with `If-None-Match: *` overwrites, and with `If-Match` on a missing blob is 412.
    pub fn with_azurite_deviations(mut self, is_like_azurite: bool) -> Self {
        self.operation.is_like_azurite = is_like_azurite;
        self
    }

    /// Adds the event hubs and consumer groups of a `Config.json` of Microsoft's emulator.
    ///
    /// Fields it does not know are told in the log and have no effect.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the place in the file.
    pub fn with_config_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        for hub in config::read(path.as_ref())? {
            for group in hub.consumer_groups {
                self.operation.groups.push((hub.name.clone(), group));
            }
            self.hubs.push((hub.name, hub.partitions));
        }
        Ok(self)
    }
}
