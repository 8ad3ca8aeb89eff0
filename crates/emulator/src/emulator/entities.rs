//! Event hubs, partitions and consumer groups of a running emulator.

use super::{Emulator, EmulatorError, builder};
use crate::broker::HubError;

impl Emulator {
    /// Creates an event hub.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if the name or the number of partitions is not possible, or the event hub
    /// exists.
    pub fn create_hub(&self, name: &str, partitions: u32) -> Result<(), EmulatorError> {
        builder::check_hub(name, partitions)?;
        self.service
            .broker
            .add_hub(name, partitions)
            .map_err(|error| of_hub(error, name, partitions))
    }

    /// Adds partitions to an event hub; clients see them with their next look at its properties.
    ///
    /// Keys are spread over all partitions from now on, as in the service.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub, or it would have more than 2000 partitions.
    pub fn add_partitions(&self, hub: &str, count: u32) -> Result<(), EmulatorError> {
        let found = self.hub(hub)?;
        self.service
            .broker
            .grow_hub(&found, |there| there.saturating_add(count))
            .map_err(|error| of_hub(error, hub, count))
    }

    /// Names a consumer group, which receivers need only with
    /// [`with_strict_groups`](super::EmulatorBuilder::with_strict_groups); one that is there
    /// already is left as it is.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or the name is not possible.
    pub fn create_consumer_group(&self, hub: &str, group: &str) -> Result<(), EmulatorError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_default = group.eq_ignore_ascii_case("$Default");
        let is_possible = (1..=50).contains(&group.len()) && group.chars().all(is_allowed);
        if !is_default && !is_possible {
            return Err(EmulatorError::InvalidGroupName(group.to_owned()));
        }
        self.hub(hub)?
            .add_group(group)
            .map_err(|error| EmulatorError::Data(error.to_string()))
    }

    /// Creates an event hub; `may_exist` says that a data directory may have brought it along.
    pub(super) fn ensure_hub(
        &self,
        name: &str,
        partitions: u32,
        may_exist: bool,
    ) -> Result<(), EmulatorError> {
        let remembered = self.service.broker.hub(name).filter(|_| may_exist);
        let Some(remembered) = remembered else {
            return self.create_hub(name, partitions);
        };
        builder::check_hub(name, partitions)?;
        let there = remembered.partitions().len();
        if there > partitions as usize {
            tracing::warn!(
                hub = name,
                there,
                asked = partitions,
                "an event hub keeps the partitions it has"
            );
        }
        self.service
            .broker
            .grow_hub(&remembered, |_| partitions)
            .map_err(|error| of_hub(error, name, partitions))
    }
}

fn of_hub(error: HubError, name: &str, partitions: u32) -> EmulatorError {
    match error {
        HubError::Data(error) => EmulatorError::Data(error.to_string()),
        HubError::Exists => EmulatorError::HubExists(name.to_owned()),
        HubError::TooManyPartitions => EmulatorError::InvalidPartitionCount(partitions),
    }
}
