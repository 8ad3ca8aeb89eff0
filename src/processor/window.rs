//! Which events of a partition may be processed at the same time, and how far all of them are done. Pure.
//!
//! Events of one key run one after the other, in order; those of different keys, and those without one, run beside each
//! other. Whatever the order in which they end, what counts as done is the longest run without a gap from the start.

use std::collections::{HashMap, VecDeque};

use super::calls::Work;
use super::inbox::MAX_TAKEN;
use super::progress::Place;
use crate::model::ReceivedEvent;

/// How much goes on at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Events being processed.
    pub(super) running: usize,
    /// Events that are taken and not yet part of the completed prefix.
    pub(super) events: usize,
    /// Their bytes. One event is taken whatever its size.
    pub(super) bytes: usize,
}

/// Names an event of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// The events of a term between their arrival and the completed prefix.
#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    slots: VecDeque<Slot>,
    /// Ticket of the first slot.
    first: u64,
    /// Tickets that wait for an event of the same key; a key is listed while one of its events runs or may run.
    queues: HashMap<u64, VecDeque<u64>>,
    ready: VecDeque<u64>,
    running: usize,
    bytes: usize,
    /// The last ticket handed out so far.
    last_started: Option<u64>,
    /// Nothing after `last_started` is handed out any more.
    is_closing: bool,
}

#[derive(Debug)]
struct Slot {
    /// Unless the message does not say where it stands.
    place: Option<Place>,
    key: Option<u64>,
    bytes: usize,
    /// Until it is handed out.
    work: Option<Work>,
    is_done: bool,
}

impl Window {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: VecDeque::new(),
            first: 0,
            queues: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            bytes: 0,
            last_started: None,
            is_closing: false,
        }
    }

    pub(super) fn set_byte_limit(&mut self, bytes: usize) {
        self.limits.bytes = bytes;
    }

    /// How many more events to take.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= self.limits.bytes && !self.is_empty() {
            0
        } else {
            self.limits.events.saturating_sub(self.slots.len())
        }
    }

    /// Whether it holds so much more than it should that nothing at all is taken, not even to hear of the link.
    pub(super) fn is_overfull(&self) -> bool {
        self.slots.len() >= self.limits.events + MAX_TAKEN || self.bytes > self.limits.bytes * 3 / 2
    }

    /// Whether everything that was taken is done.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes the next event of the partition. `key`: what it is ordered by, if anything.
    pub(super) fn push(&mut self, work: Work, key: Option<u64>) {
        let ticket = self.first + self.slots.len() as u64;
        match key.map(|key| self.queues.get_mut(&key).ok_or(key)) {
            None => self.ready.push_back(ticket),
            Some(Ok(queue)) => queue.push_back(ticket),
            Some(Err(key)) => {
                self.queues.insert(key, VecDeque::new());
                self.ready.push_back(ticket);
            }
        }
        let bytes = work.events().iter().map(ReceivedEvent::encoded_len).sum();
        self.bytes += bytes;
        self.slots.push_back(Slot {
            place: work.last_place().map(Place::of),
            key,
            bytes,
            work: Some(work),
            is_done: false,
        });
    }

    /// The next event to be processed, if one may be.
    pub(super) fn start(&mut self) -> Option<(Ticket, Work)> {
        if self.running >= self.limits.running {
            return None;
        }
        let mut ticket = self.ready.pop_front()?;
        while self.is_closing && Some(ticket) > self.last_started {
            ticket = self.ready.pop_front()?;
        }
        let work = self.slot(ticket)?.work.take()?;
        self.running += 1;
        self.last_started = self.last_started.max(Some(ticket));
        Some((Ticket(ticket), work))
    }

    /// From now on hands out only what fills the gaps: then everything that was started is part of the completed prefix,
    /// and whoever goes on after it repeats nothing.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Notes that an event is done. Returns the last event of the completed prefix and by how many it grew, if it did.
    pub(super) fn finish(&mut self, Ticket(ticket): Ticket) -> Option<(Place, u64)> {
        let slot = self.slot(ticket)?;
        slot.is_done = true;
        let key = slot.key;
        self.running -= 1;
        if let Some(key) = key
            && let Some(queue) = self.queues.get_mut(&key)
        {
            match queue.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => {
                    self.queues.remove(&key);
                }
            }
        }
        let mut prefix = None;
        let mut grown = 0;
        while self.slots.front().is_some_and(|slot| slot.is_done)
            && let Some(slot) = self.slots.pop_front()
        {
            self.first += 1;
            self.bytes -= slot.bytes;
            prefix = slot.place.or(prefix);
            grown += 1;
        }
        prefix.map(|place| (place, grown))
    }

    fn slot(&mut self, ticket: u64) -> Option<&mut Slot> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::model::EventParts;

    const ROOMY: Limits = Limits {
        running: 4,
        events: 16,
        bytes: 1_000_000,
    };

    fn event(number: i64) -> Work {
        sized(number, 1)
    }

    fn sized(number: i64, bytes: usize) -> Work {
        let offset = number.to_string();
        let (offset, body) = (offset.as_str(), vec![0; bytes]);
        let parts = EventParts::new(number, offset, SystemTime::UNIX_EPOCH, body);
        Work::Event(ReceivedEvent::new(parts))
    }

    fn started(window: &mut Window) -> Vec<(Ticket, i64)> {
        std::iter::from_fn(|| window.start())
            .map(|(ticket, work)| (ticket, work.events()[0].sequence_number()))
            .collect()
    }

    fn prefix(finished: Option<(Place, u64)>) -> Option<(i64, u64)> {
        finished.map(|(place, grown)| (place.sequence_number(), grown))
    }

    #[test]
    fn a_slow_key_holds_up_nobody_but_itself_and_the_checkpoint() {
        let mut window = Window::new(ROOMY);
        for (number, key) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
            window.push(event(number), Some(key));
        }
        let first = started(&mut window);
        assert_eq!(first.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2, 4]);
        let [slow, second, third] = first[..] else {
            unreachable!()
        };
        assert_eq!(window.finish(second.0), None);
        assert_eq!(window.finish(third.0), None);
        let [(ticket, number)] = started(&mut window)[..] else {
            panic!("the next of key 2 and nothing else")
        };
        assert_eq!(number, 3);
        assert_eq!(window.finish(ticket), None);
        assert!(started(&mut window).is_empty());
        assert_eq!(prefix(window.finish(slow.0)), Some((0, 1)));
        let [(ticket, 1)] = started(&mut window)[..] else {
            panic!("the next of key 1")
        };
        assert_eq!(prefix(window.finish(ticket)), Some((4, 4)));
        assert!(window.is_empty());
    }

    #[test]
    fn a_window_that_closes_fills_its_gaps_and_starts_nothing_else() {
        let mut window = Window::new(ROOMY);
        for (number, key) in [(0, 1), (1, 1), (2, 2), (3, 1), (4, 2)] {
            window.push(event(number), Some(key));
        }
        let [(first, 0), (second, 2)] = started(&mut window)[..] else {
            panic!("one of each key")
        };
        window.close();
        assert_eq!(window.finish(second), None);
        assert!(started(&mut window).is_empty(), "4 comes after 2");
        assert_eq!(prefix(window.finish(first)), Some((0, 1)));
        let [(gap, 1)] = started(&mut window)[..] else {
            panic!("1 comes before 2")
        };
        assert_eq!(prefix(window.finish(gap)), Some((2, 2)));
        assert!(started(&mut window).is_empty());
    }

    #[test]
    fn the_window_is_bounded_in_events_and_in_bytes() {
        let mut window = Window::new(Limits { events: 2, ..ROOMY });
        assert_eq!(window.room(), 2);
        window.push(sized(0, 10), None);
        window.push(sized(1, 10), None);
        assert_eq!(window.room(), 0);
        let mut window = Window::new(Limits { bytes: 15, ..ROOMY });
        window.push(sized(0, 10), None);
        assert_ne!(window.room(), 0);
        window.push(sized(1, 10), None);
        assert_eq!(window.room(), 0);
        let [(first, _), _] = started(&mut window)[..] else {
            panic!("both")
        };
        window.finish(first);
        assert_ne!(window.room(), 0);
        let mut window = Window::new(Limits { bytes: 0, ..ROOMY });
        assert_ne!(window.room(), 0, "one event, whatever its size");
        window.push(sized(0, 10), None);
        assert_eq!(window.room(), 0);
    }

    proptest! {
        /// Against a model that looks through everything: order within a key, the number that run, nothing waits
        /// without a reason, and the prefix is the longest without a gap. `PROPTEST_CASES=100000` takes two minutes.
        #[test]
        fn it_does_what_the_model_says(
            running in 1usize..5,
            steps in proptest::collection::vec((0u8..3, any::<u64>(), proptest::option::of(0u64..4)), 1..200),
        ) {
            let mut window = Window::new(Limits { running, ..ROOMY });
            let mut keys: Vec<Option<u64>> = Vec::new();
            let (mut is_started, mut is_done) = (Vec::new(), Vec::new());
            let mut runs: Vec<(Ticket, usize)> = Vec::new();
            let mut done_until = 0;
            for (step, choice, key) in steps {
                match step {
                    0 if window.room() > 0 => {
                        window.push(event(keys.len() as i64), key);
                        keys.push(key);
                        is_started.push(false);
                        is_done.push(false);
                    }
                    1 if !runs.is_empty() => {
                        let (ticket, number) = runs.remove(choice as usize % runs.len());
                        is_done[number] = true;
                        let until = is_done.iter().take_while(|done| **done).count();
                        let expected = (until > done_until)
                            .then(|| (until as i64 - 1, (until - done_until) as u64));
                        prop_assert_eq!(prefix(window.finish(ticket)), expected);
                        done_until = until;
                    }
                    _ => {
                        if let Some((ticket, work)) = window.start() {
                            let number = work.events()[0].sequence_number() as usize;
                            prop_assert!(!is_started[number]);
                            is_started[number] = true;
                            if let Some(key) = keys[number] {
                                for before in 0..number {
                                    prop_assert!(keys[before] != Some(key) || is_done[before]);
                                }
                            }
                            runs.push((ticket, number));
                            prop_assert!(runs.len() <= running);
                        } else if runs.len() < running {
                            for number in 0..keys.len() {
                                let is_held_up = keys[number].is_some()
                                    && runs.iter().any(|(_, run)| keys[*run] == keys[number]);
                                prop_assert!(is_started[number] || is_held_up);
                            }
                        }
                    }
                }
                prop_assert_eq!(window.running, runs.len());
                prop_assert_eq!(window.slots.len(), keys.len() - done_until);
                prop_assert!(window.room() <= 16);
            }
        }
    }
}
