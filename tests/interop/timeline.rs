//! What consumers did, read from their lines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::program::{Line, Program};

/// One stretch of reading a partition, from `initialize` to `close`.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// When `initialize` came.
    pub(crate) began: Instant,
    /// First and last sequence number.
    pub(crate) events: Option<(i64, i64)>,
    /// Newest checkpoint that the program told of; only Python's does.
    pub(crate) checkpoint: Option<i64>,
    /// Why it ended, if it did.
    pub(crate) closed: Option<String>,
}

/// Sequence number and body of an event line of a partition.
pub(crate) fn event<'a>(line: &'a Line, partition: &str) -> Option<(i64, &'a str)> {
    let event = line.value.get("event")?;
    let is_of_partition = event["partition"] == partition;
    is_of_partition.then(|| {
        (
            event["sequence_number"].as_i64().unwrap(),
            event["body"].as_str().unwrap(),
        )
    })
}

/// The terms of a partition, oldest first.
///
/// # Panics
///
/// If the lines contradict each other: events outside of a term, or not one after the other.
pub(crate) fn terms(lines: &[Line], partition: &str) -> Vec<Term> {
    let mut terms: Vec<Term> = Vec::new();
    for line in lines {
        let open = terms.last_mut().filter(|term| term.closed.is_none());
        if let Some((number, _)) = event(line, partition) {
            let term = open.unwrap_or_else(|| panic!("an event outside of a term: {line:?}"));
            let first = term.events.map_or(number, |(first, last)| {
                assert_eq!(
                    number,
                    last + 1,
                    "partition {partition}: a gap or a repetition"
                );
                first
            });
            term.events = Some((first, number));
        } else if line.value["checkpoint"]["partition"] == partition {
            let term = open.unwrap_or_else(|| panic!("a checkpoint outside of a term: {line:?}"));
            term.checkpoint = line.value["checkpoint"]["sequence_number"].as_i64();
        } else if line.value["partition"] == partition {
            match line.value["lifecycle"].as_str() {
                Some("initialize") => {
                    assert!(open.is_none(), "a term within a term: {line:?}");
                    terms.push(Term {
                        began: line.at,
                        events: None,
                        checkpoint: None,
                        closed: None,
                    });
                }
                Some("close") => {
                    let term = open.unwrap_or_else(|| panic!("closed twice: {line:?}"));
                    term.closed = Some(line.value["reason"].as_str().unwrap().to_owned());
                }
                _ => {}
            }
        }
    }
    terms
}

/// When the first event of any partition came after an instant.
pub(crate) fn first_event_after(
    lines: &[Line],
    partition: &str,
    instant: Instant,
) -> Option<Instant> {
    let later = |line: &&Line| line.at > instant && event(line, partition).is_some();
    lines.iter().find(later).map(|line| line.at)
}

/// The longest time between two events of a partition, whoever processed them.
pub(crate) fn longest_pause(
    consumers: &[&Program],
    partition: &str,
    from: Instant,
    to: Instant,
) -> Duration {
    let mut times: Vec<_> = consumers
        .iter()
        .flat_map(|consumer| consumer.lines())
        .filter(|line| event(line, partition).is_some())
        .map(|line| line.at)
        .filter(|at| (from..to).contains(at))
        .chain([from, to])
        .collect();
    times.sort();
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.max().unwrap()
}

/// What was told to `on_error`.
pub(crate) fn errors(lines: &[Line]) -> Vec<String> {
    let errors = lines
        .iter()
        .filter(|line| line.value["lifecycle"] == "error");
    errors.map(|line| line.value.to_string()).collect()
}

/// The bodies that a producer was told are in.
pub(crate) fn acknowledged(lines: &[Line]) -> BTreeSet<String> {
    let batches = lines
        .iter()
        .filter_map(|line| line.value["sent"]["bodies"].as_array());
    batches
        .flatten()
        .map(|body| body.as_str().unwrap().to_owned())
        .collect()
}

/// All events that several consumers processed.
#[derive(Debug, Default)]
pub(crate) struct Union {
    /// How often each sequence number of each partition was processed.
    times: BTreeMap<String, BTreeMap<i64, usize>>,
    bodies: BTreeSet<String>,
}

impl Union {
    pub(crate) fn of(consumers: &[&Program]) -> Self {
        let mut union = Self::default();
        for consumer in consumers {
            union.add(&consumer.lines());
        }
        union
    }

    pub(crate) fn add(&mut self, lines: &[Line]) {
        for event in lines.iter().filter_map(|line| line.value.get("event")) {
            let partition = event["partition"].as_str().unwrap().to_owned();
            let number = event["sequence_number"].as_i64().unwrap();
            *self
                .times
                .entry(partition)
                .or_default()
                .entry(number)
                .or_default() += 1;
            self.bodies
                .insert(event["body"].as_str().unwrap().to_owned());
        }
    }

    pub(crate) fn has(&self, partition: &str, number: i64) -> bool {
        let seen = self.times.get(partition);
        seen.is_some_and(|seen| seen.contains_key(&number))
    }

    /// How many events were processed more than once, counting each time beyond the first.
    pub(crate) fn duplicates(&self) -> usize {
        self.duplicates_of_each().values().sum()
    }

    /// The same by partition.
    pub(crate) fn duplicates_of_each(&self) -> BTreeMap<String, usize> {
        let of = |(partition, seen): (&String, &BTreeMap<i64, usize>)| {
            let repeated = seen.values().map(|times| times - 1).sum();
            (partition.clone(), repeated)
        };
        self.times.iter().map(of).collect()
    }

    pub(crate) fn events(&self) -> usize {
        self.times.values().map(BTreeMap::len).sum()
    }

    /// # Panics
    ///
    /// If a sequence number from 0 to the last of the partition is missing.
    pub(crate) fn assert_complete(&self, partition: &str, last: i64) {
        let seen = self.times.get(partition);
        let is_missing = |number: &i64| !seen.is_some_and(|seen| seen.contains_key(number));
        let missing: Vec<_> = (0..=last).filter(is_missing).collect();
        assert!(
            missing.is_empty(),
            "partition {partition} of 0..={last} lost {missing:?}"
        );
    }

    /// Those of the bodies that nobody processed.
    pub(crate) fn lacks<'a>(&self, acknowledged: &'a BTreeSet<String>) -> Vec<&'a String> {
        let is_lacking = |body: &&String| !self.bodies.contains(*body);
        acknowledged.iter().filter(is_lacking).collect()
    }

    /// # Panics
    ///
    /// If a body that was acknowledged is missing.
    pub(crate) fn assert_has(&self, acknowledged: &BTreeSet<String>) {
        let missing = self.lacks(acknowledged);
        assert!(
            missing.is_empty(),
            "{} of {} lost: {missing:?}",
            missing.len(),
            acknowledged.len()
        );
    }
}
