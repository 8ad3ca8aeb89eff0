//! Figures into a table.

use crate::clients::Client;
use crate::measure::{Figures, Load};

/// All rounds of all clients on one event hub. `None` where a run failed.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    pub(crate) load: Load,
    /// By client, then by round.
    pub(crate) runs: Vec<(&'a Client, Vec<Option<Figures>>)>,
}

const HEAD: &str = "\
| client | runs | events/s | CPU µs/event | events/s to ours | CPU to ours | cores | peak RSS MiB | first event ms | \
of these from `run` |
|---|---|---|---|---|---|---|---|---|---|
";

impl Results<'_> {
    /// In Markdown. `min / median / max` where there are three numbers, otherwise medians.
    pub(crate) fn table(&self) -> String {
        let partitions = self.load.partitions;
        let mut table = format!("\n{}:\n\n{HEAD}", self.load);
        let ours = self
            .runs
            .iter()
            .find(|(client, _)| client.name.starts_with("ours"));
        for (client, runs) in &self.runs {
            let figures: Vec<Figures> = runs.iter().flatten().copied().collect();
            let of = |value: fn(&Figures) -> f64| Spread::of(figures.iter().map(value));
            let to_ours = |value: fn(&Figures) -> f64| {
                let (_, ours) = ours?;
                // Of the same round: what else the machine did was most alike then.
                let pairs = runs.iter().zip(ours);
                Spread::of(pairs.filter_map(|(theirs, ours)| {
                    Some(value(theirs.as_ref()?) / value(ours.as_ref()?))
                }))
            };
            let read = figures.iter().map(|figures| figures.partitions).min();
            let title = match read {
                Some(read) if read < partitions => format!("{} (read {read})", client.title),
                _ => client.title.to_owned(),
            };
            let columns = [
                title,
                format!("{} of {}", figures.len(), runs.len()),
                all_three(of(|f| f.events_per_second), thousands),
                all_three(of(|f| f.cpu_per_event_us), |us| format!("{us:.2}")),
                median(to_ours(|f| f.events_per_second), |ratio| {
                    format!("{ratio:.3}")
                }),
                median(to_ours(|f| f.cpu_per_event_us), |ratio| {
                    format!("{ratio:.2}")
                }),
                median(of(|f| f.cores), |cores| format!("{cores:.2}")),
                median(of(|f| f.peak_rss_mib), |mib| format!("{mib:.0}")),
                all_three(of(|f| f.first_event_ms), |ms| format!("{ms:.0}")),
                median(of(|f| f.first_event_since_run_ms), |ms| format!("{ms:.0}")),
            ];
            table += &format!("| {} |\n", columns.join(" | "));
        }
        table
    }
}

/// `12.3 k`; under a thousand as it is.
pub(crate) fn thousands(events: f64) -> String {
    match events {
        1e6.. => format!("{:.2} M", events / 1e6),
        1e3.. => format!("{:.1} k", events / 1e3),
        _ => format!("{events:.0}"),
    }
}

fn all_three(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |s| format!("{} / {} / {}", show(s.min), show(s.median), show(s.max)),
    )
}

fn median(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| show(spread.median))
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (values[middle - 1] + values[middle]) / 2.0
        } else {
            values[middle]
        };
        Some(Self { min, median, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        let median = |values: &[f64]| Spread::of(values.iter().copied()).map(|s| s.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let run = |rate: f64| Figures {
            events_per_second: rate,
            cpu_per_event_us: 1.0,
            cores: 1.0,
            peak_rss_mib: 1.0,
            first_event_ms: 1.0,
            first_event_since_run_ms: 1.0,
            partitions: 4,
        };
        let ours = &crate::clients::CLIENTS[0];
        let clients = crate::clients::CLIENTS.iter();
        let mut theirs = clients.filter(|client| client.name == "azure-0.16");
        let theirs = theirs.next().unwrap();
        let results = Results {
            load: Load {
                partitions: 4,
                size: 100,
                handler_ms: 0,
            },
            runs: vec![
                (ours, vec![Some(run(100.0)), Some(run(200.0)), None]),
                (
                    theirs,
                    vec![Some(run(50.0)), Some(run(100.0)), Some(run(900.0))],
                ),
            ],
        };
        let table = results.table();
        let row = table.lines().last().unwrap_or_default();
        assert!(
            row.starts_with("| azure_messaging_eventhubs 0.16 | 3 of 3 | 50 / 100 / 900 |"),
            "{row}"
        );
        assert!(row.contains("| 0.500 | 1.00 |"), "{row}");
    }
}
