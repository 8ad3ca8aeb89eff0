//! What the program takes of the system.

use std::fmt;
use std::fs;
use std::time::Duration;

/// Memory and descriptors at one time, from `/proc`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: usize,
}

impl Sample {
    pub(crate) fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let resident_kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap();
        Self {
            resident_kib: resident_kib.parse().unwrap(),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        }
    }
}

/// The TCP sockets of a process, as the kernel sees them: for the message of a failure.
pub(crate) fn sockets(process: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let inodes: Vec<String> = links
        .filter_map(|link| fs::read_link(link.unwrap().path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| {
        row.get(9)
            .is_some_and(|inode| inodes.iter().any(|known| known == inode))
    })
    .map(|row| {
        let port = |at: usize| {
            row[at]
                .split(':')
                .nth(1)
                .and_then(|p| u16::from_str_radix(p, 16).ok())
        };
        format!(
            "{:?} from {:?}, state {}, queues {}",
            port(1),
            port(2),
            row[3],
            row[4]
        )
    })
    .collect()
}

/// Samples over time.
#[derive(Default)]
pub(crate) struct Series(Vec<(Duration, Sample)>);

impl Series {
    pub(crate) fn push(&mut self, at: Duration, sample: Sample) {
        self.0.push((at, sample));
    }

    /// Least squares over the last half.
    pub(crate) fn slope_kib_per_min(&self) -> f64 {
        let points: Vec<(f64, f64)> = self.0[self.0.len() / 2..]
            .iter()
            .map(|(at, sample)| (at.as_secs_f64() / 60.0, sample.resident_kib as f64))
            .collect();
        let count = points.len() as f64;
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        let covariance: f64 = points
            .iter()
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        covariance / variance
    }
}

/// About thirty lines.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = (self.0.len() / 30).max(1);
        for (at, sample) in self.0.iter().step_by(step) {
            let (seconds, kib) = (at.as_secs(), sample.resident_kib);
            writeln!(
                f,
                "{seconds:5} s {kib:8} KiB {:4} descriptors",
                sample.descriptors
            )?;
        }
        Ok(())
    }
}
