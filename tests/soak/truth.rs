//! What was sent, and what became of it.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(crate) const PARTITIONS: u32 = 8;
/// Keys in each partition.
pub(crate) const KEYS: usize = 12;
/// How long a partition with unread events may be silent without a word to `on_error`.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Truth {
    partitions: Vec<Mutex<Partition>>,
    faults: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Partition {
    sent: u64,
    /// Whether the event of this sequence number has been processed.
    done: Vec<bool>,
    missing: u64,
    again: u64,
    failed: u64,
    errors: u64,
    /// By key: events sent, and events processed in order.
    keys: [(u64, u64); KEYS],
    last_call: Instant,
    last_word: Instant,
    longest_silence: Duration,
}

impl Truth {
    /// For so many events; no memory is taken later.
    pub(crate) fn new(events: u64) -> Self {
        let partition = || Partition {
            sent: 0,
            done: vec![false; (events / 2) as usize],
            missing: 0,
            again: 0,
            failed: 0,
            errors: 0,
            keys: [(0, 0); KEYS],
            last_call: Instant::now(),
            last_word: Instant::now(),
            longest_silence: Duration::ZERO,
        };
        Self {
            partitions: (0..PARTITIONS).map(|_| Mutex::new(partition())).collect(),
            faults: Mutex::default(),
        }
    }

    /// The key and the body of the next event.
    pub(crate) fn next(&self, partition: u32, key: usize) -> (String, String) {
        let mut state = self.partition(partition);
        state.sent += 1;
        state.missing += 1;
        if state.missing == 1 {
            // Silence counts from here on.
            state.last_word = Instant::now();
        }
        let number = state.keys[key].0;
        state.keys[key].0 += 1;
        (format!("key-{key}"), format!("{key}:{number}"))
    }

    pub(crate) fn called(&self, partition: u32) {
        let mut state = self.partition(partition);
        let silence = state.last_call.max(state.last_word).elapsed();
        state.longest_silence = state.longest_silence.max(silence);
        state.last_call = Instant::now();
    }

    pub(crate) fn failed(&self, partition: u32) {
        self.partition(partition).failed += 1;
    }

    pub(crate) fn told(&self, partition: u32) {
        let mut state = self.partition(partition);
        state.errors += 1;
        state.last_word = Instant::now();
    }

    pub(crate) fn processed(&self, partition: u32, sequence_number: i64, body: &str) {
        let mut state = self.partition(partition);
        let index = usize::try_from(sequence_number).unwrap();
        if std::mem::replace(&mut state.done[index], true) {
            state.again += 1;
            return;
        }
        state.missing -= 1;
        let (key, number) = body.split_once(':').unwrap();
        let (key, number): (usize, u64) = (key.parse().unwrap(), number.parse().unwrap());
        let expected = std::mem::replace(&mut state.keys[key].1, number + 1);
        if expected != number {
            self.fault(format!(
                "partition {partition}, key {key}: {number} was processed when {expected} was to be"
            ));
        }
    }

    /// A partition with unread events must be read, or somebody be told that it is not.
    pub(crate) fn check_for_silence(&self) {
        for id in 0..PARTITIONS {
            let mut state = self.partition(id);
            let silence = state.last_call.max(state.last_word).elapsed();
            if state.missing > 0 && silence > SILENCE {
                self.fault(format!(
                    "partition {id} was silent for {silence:?}, and nobody said so"
                ));
                state.last_word = Instant::now();
            }
        }
    }

    pub(crate) fn unprocessed(&self) -> u64 {
        (0..PARTITIONS).map(|id| self.partition(id).missing).sum()
    }

    pub(crate) fn lost(&self) -> Vec<(u32, usize)> {
        let lost = |id: u32| {
            let state = self.partition(id);
            let sent = usize::try_from(state.sent).unwrap();
            let lost: Vec<_> = (0..sent)
                .filter(|index| !state.done[*index])
                .map(|index| (id, index))
                .collect();
            lost
        };
        (0..PARTITIONS).flat_map(lost).take(20).collect()
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }

    pub(crate) fn summary(&self) -> String {
        let sum = |of: fn(&Partition) -> u64| {
            (0..PARTITIONS)
                .map(|id| of(&self.partition(id)))
                .sum::<u64>()
        };
        let silence = (0..PARTITIONS)
            .map(|id| self.partition(id).longest_silence)
            .max();
        format!(
            "sent {} unprocessed {} again {} failures {} errors told {} longest silence {:.1} s",
            sum(|p| p.sent),
            sum(|p| p.missing),
            sum(|p| p.again),
            sum(|p| p.failed),
            sum(|p| p.errors),
            silence.unwrap_or_default().as_secs_f64()
        )
    }

    fn fault(&self, text: String) {
        println!("FAULT: {text}");
        self.faults.lock().unwrap().push(text);
    }

    fn partition(&self, id: u32) -> MutexGuard<'_, Partition> {
        self.partitions[id as usize].lock().unwrap()
    }
}
