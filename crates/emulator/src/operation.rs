//! Flags for running the emulator for longer: data, limits, configuration files.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use eventhubs_emulator::EmulatorBuilder;

#[derive(Debug, Args)]
pub(crate) struct Operation {
    /// Directory that keeps event hubs, events and blobs over restarts.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Wait for the disk before accepting anything, for when the power fails; slow.
    #[arg(long, requires = "data")]
    fsync: bool,
    /// Config.json of Microsoft's emulator, for its event hubs and consumer groups.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Consumer group to name; repeatable.
    #[arg(long = "consumer-group", value_name = "HUB:GROUP", value_parser = parse_group)]
    groups: Vec<(String, String)>,
    /// Refuse receivers of consumer groups that are neither named nor $Default.
    #[arg(long)]
    strict_groups: bool,
    /// Behave as a geo-replicated namespace: offsets are text that is no number.
    #[arg(long)]
    geo_replication: bool,
    /// Answer for blobs as Azurite does where that is not as Azure does.
    #[arg(long)]
    azurite_deviations: bool,
    /// Refuse a second pair of $cbs links on a connection, as the service does.
    #[arg(long)]
    single_cbs_link: bool,
    /// Drop events older than this, such as 90s, 15m, 24h or 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    retention_age: Option<Duration>,
    /// Mebibytes that all events together may take; the largest partition then drops its oldest.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory_mib: usize,
    /// Limit every event hub: a unit is 1 MB/s or 1000 events/s in, and 2 MB/s out.
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..))]
    throughput_units: Option<u32>,
}

impl Operation {
    pub(crate) fn apply(
        self,
        builder: EmulatorBuilder,
    ) -> Result<EmulatorBuilder, Box<dyn Error + Send + Sync>> {
        let mut builder = builder
            .with_fsync(self.fsync)
            .with_strict_groups(self.strict_groups)
            .with_geo_replication(self.geo_replication)
            .with_single_cbs_link(self.single_cbs_link)
            .with_azurite_deviations(self.azurite_deviations)
            .with_memory_budget(self.memory_mib.saturating_mul(1 << 20));
        if let Some(path) = self.data {
            builder = builder.with_data_dir(path);
        }
        if let Some(path) = self.config {
            builder = builder.with_config_file(path)?;
        }
        for (hub, group) in self.groups {
            builder = builder.with_consumer_group(hub, group);
        }
        if let Some(age) = self.retention_age {
            builder = builder.with_retention_age(age);
        }
        if let Some(units) = self.throughput_units {
            builder = builder.with_throughput_units(units);
        }
        Ok(builder)
    }
}

fn parse_group(text: &str) -> Result<(String, String), String> {
    let (hub, group) = text
        .split_once(':')
        .ok_or_else(|| format!("'{text}' is not of the form HUB:GROUP"))?;
    Ok((hub.to_owned(), group.to_owned()))
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is not a number followed by s, m, h or d");
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number = text.strip_suffix(unit).ok_or_else(expected)?;
    let number: u64 = number.parse().map_err(|_| expected())?;
    let seconds = number.checked_mul(seconds).filter(|s| *s > 0);
    seconds.map(Duration::from_secs).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(parse_age("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "5",
            "m",
            "0s",
            "-1h",
            "1y",
            "99999999999999999999d",
            "\u{e9}",
        ] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
