//! Reads a history as it grows and keeps the figures that the scenarios are about.

use std::collections::BTreeMap;

use crate::history::{Happening, Member, Partition, Time};

/// The group as the hub and the store see it, and what happened in the current window.
#[derive(Debug)]
pub(crate) struct Replay {
    read: usize,
    readers: Vec<u32>,
    unread_since: Vec<Time>,
    owners: Vec<Option<Member>>,
    /// Partitions by owner, for everybody who is up.
    loads: BTreeMap<Member, usize>,
    window: Time,
    first_covered: Option<Time>,
    balanced_since: Option<Time>,
    pub(crate) last_change: Time,
    pub(crate) moves: u64,
    pub(crate) changes: u64,
    longest_gap: Time,
    gap_sum: Time,
    /// The newest event that a handler was called for.
    started: Vec<i64>,
    /// Handler calls for events that a handler had been called for before.
    pub(crate) duplicates: u64,
}

impl Replay {
    pub(crate) fn new(partitions: u32) -> Self {
        let n = partitions as usize;
        Self {
            read: 0,
            readers: vec![0; n],
            unread_since: vec![0; n],
            owners: vec![None; n],
            loads: BTreeMap::new(),
            window: 0,
            first_covered: None,
            balanced_since: None,
            last_change: 0,
            moves: 0,
            changes: 0,
            longest_gap: 0,
            gap_sum: 0,
            started: vec![-1; n],
            duplicates: 0,
        }
    }

    /// Measures from here on. Partitions that nobody reads now count from here on, too.
    pub(crate) fn begin_window(&mut self, now: Time) {
        self.window = now;
        self.first_covered = self.is_covered().then_some(now);
        self.balanced_since = self.is_balanced().then_some(now);
        self.last_change = now;
        (self.moves, self.changes) = (0, 0);
        (self.longest_gap, self.gap_sum) = (0, 0);
        self.duplicates = 0;
        self.unread_since.fill(now);
    }

    /// When the window began.
    pub(crate) fn window(&self) -> Time {
        self.window
    }

    /// Reads on.
    pub(crate) fn advance(&mut self, records: &[(Time, Happening)]) {
        for (now, happening) in &records[self.read..] {
            self.apply(*now, happening);
        }
        self.read = records.len();
    }

    pub(crate) fn is_covered(&self) -> bool {
        self.readers.iter().all(|readers| *readers > 0)
    }

    pub(crate) fn is_balanced(&self) -> bool {
        let min = self.loads.values().min().copied().unwrap_or(0);
        let max = self.loads.values().max().copied().unwrap_or(0);
        let owned: usize = self.loads.values().sum();
        owned == self.owners.len() && max - min <= 1
    }

    /// Most minus fewest partitions of an owner.
    pub(crate) fn spread(&self) -> usize {
        let min = self.loads.values().min().copied().unwrap_or(0);
        self.loads.values().max().copied().unwrap_or(0) - min
    }

    /// Seconds from the start of the window until every partition was read.
    pub(crate) fn seconds_to_cover(&self) -> Option<f64> {
        self.first_covered.map(|at| seconds(at - self.window))
    }

    /// Seconds from the start of the window until the loads were equal and stayed so.
    pub(crate) fn seconds_to_balance(&self) -> Option<f64> {
        self.balanced_since.map(|at| seconds(at - self.window))
    }

    /// Longest time in the window that nobody read a partition, and the sum over all partitions, in seconds.
    pub(crate) fn gaps(&self, now: Time) -> (f64, f64) {
        let (mut longest, mut sum) = (self.longest_gap, self.gap_sum);
        for (readers, since) in self.readers.iter().zip(&self.unread_since) {
            if *readers == 0 {
                longest = longest.max(now - since);
                sum += now - since;
            }
        }
        (seconds(longest), seconds(sum))
    }

    fn apply(&mut self, now: Time, happening: &Happening) {
        match happening {
            Happening::Attached { partition, .. } => self.attached(now, *partition),
            Happening::Detached { partition, .. } => {
                let readers = &mut self.readers[*partition as usize];
                *readers -= 1;
                if *readers == 0 {
                    self.unread_since[*partition as usize] = now;
                }
            }
            Happening::OwnerChanged {
                partition,
                from,
                to,
                ..
            } => self.owner_changed(now, *partition, *from, *to),
            Happening::HandlerStarted { partition, seq, .. } => {
                let started = &mut self.started[*partition as usize];
                self.duplicates += u64::from(seq <= started);
                *started = (*started).max(*seq);
            }
            Happening::Up { member, .. } => {
                self.loads.insert(*member, 0);
                self.note_balance(now);
            }
            Happening::Down { member, .. } => {
                self.loads.remove(member);
                self.note_balance(now);
            }
            _ => {}
        }
    }

    fn attached(&mut self, now: Time, partition: Partition) {
        let partition = partition as usize;
        self.readers[partition] += 1;
        if self.readers[partition] == 1 {
            let gap = now - self.unread_since[partition];
            self.longest_gap = self.longest_gap.max(gap);
            self.gap_sum += gap;
            if self.first_covered.is_none() && self.is_covered() {
                self.first_covered = Some(now);
            }
        }
    }

    fn owner_changed(
        &mut self,
        now: Time,
        partition: Partition,
        from: Option<Member>,
        to: Option<Member>,
    ) {
        self.owners[partition as usize] = to;
        self.last_change = now;
        if let Some(load) = from.and_then(|from| self.loads.get_mut(&from)) {
            *load -= 1;
            self.moves += u64::from(to.is_some());
        }
        self.changes += u64::from(to.is_some());
        if let Some(load) = to.and_then(|to| self.loads.get_mut(&to)) {
            *load += 1;
        }
        self.note_balance(now);
    }

    fn note_balance(&mut self, now: Time) {
        if !self.is_balanced() {
            self.balanced_since = None;
        } else if self.balanced_since.is_none() {
            self.balanced_since = Some(now);
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a virtual day has far fewer milliseconds than f64 has integers"
)]
pub(crate) fn seconds(milliseconds: Time) -> f64 {
    milliseconds as f64 / 1000.0
}
