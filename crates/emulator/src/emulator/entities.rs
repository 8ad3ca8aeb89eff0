//! Event hubs, partitions and consumer groups of a running emulator.

use std::sync::Arc;

use super::{Emulator, EmulatorError, builder};
use crate::amqp::Service;
use crate::amqp::errors::entity_not_found;
use crate::broker::{Hub, HubError};

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

    /// Deletes an event hub with its events; who uses it is detached with `amqp:not-found`.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or a data directory cannot be written.
    pub fn delete_hub(&self, name: &str) -> Result<(), EmulatorError> {
        remove(&self.service, name).map(drop)
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

/// Deletes an event hub and makes it again: sequence numbers and offsets start anew.
pub(super) fn recreate(service: &Service, name: &str) -> Result<(), EmulatorError> {
    let old = remove(service, name)?;
    let partitions = u32::try_from(old.partitions().len()).unwrap_or(u32::MAX);
    service
        .broker
        .add_hub(old.name(), partitions)
        .map_err(|error| of_hub(error, name, partitions))?;
    let hub = service.broker.hub(name);
    let no_such_hub = || EmulatorError::NoSuchHub(name.to_owned());
    let hub = hub.ok_or_else(no_such_hub)?;
    old.groups()
        .iter()
        .try_for_each(|group| hub.add_group(group))
        .map_err(|error| EmulatorError::Data(error.to_string()))
}

fn remove(service: &Service, name: &str) -> Result<Arc<Hub>, EmulatorError> {
    let hub = service
        .broker
        .remove_hub(name)
        .map_err(|error| EmulatorError::Data(error.to_string()))?
        .ok_or_else(|| EmulatorError::NoSuchHub(name.to_owned()))?;
    service.detach_all(name, &entity_not_found(name));
    Ok(hub)
}

fn of_hub(error: HubError, name: &str, partitions: u32) -> EmulatorError {
    match error {
        HubError::Data(error) => EmulatorError::Data(error.to_string()),
        HubError::Exists => EmulatorError::HubExists(name.to_owned()),
        HubError::TooManyPartitions => EmulatorError::InvalidPartitionCount(partitions),
    }
}
