//! What is noted about one partition while it is read. Everything on the way of an event is a number that is stored.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::stall::{Order, Stall};
use crate::error::ProcessingError;
use crate::model::{
    Checkpoint, EventPosition, LastEnqueuedEventProperties, PartitionProperties, ReceivedEvent,
};
use crate::processor::progress::Place;
use crate::telemetry;

/// No sequence number yet.
const NONE: i64 = i64::MIN;

/// How far the pump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::processor) enum Stage {
    /// No term, or none that has a receiver yet.
    Starting,
    Reading,
    /// The receiver failed and is being opened again.
    Reconnecting,
}

/// One partition, for as long as the processor lives: counters go on when it comes back.
#[derive(Debug)]
pub(in crate::processor) struct PartitionCell {
    stage: AtomicU8,
    is_unproven: AtomicBool,
    is_stopped: AtomicBool,
    is_stalled: AtomicBool,
    /// Events that are being tried again.
    retrying: AtomicU32,
    /// Events taken from receivers.
    received: AtomicU64,
    /// Events handed to the handler, those it is done with, and those it was handed in vain: their term has ended.
    pub(super) delivered: AtomicU64,
    pub(super) processed: AtomicU64,
    in_vain: AtomicU64,
    last_received: AtomicI64,
    last_delivered: AtomicI64,
    last_processed: AtomicI64,
    /// When the last event that is done was enqueued, in milliseconds since 1970.
    processed_enqueued: AtomicI64,
    pub(super) skipped: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) slow_calls: AtomicU64,
    calls: Mutex<Calls>,
    slow: Mutex<Slow>,
    order: Mutex<Option<Order>>,
    ordered: Notify,
    /// How long the calls of the handler take.
    #[cfg(feature = "metrics")]
    durations: Option<metrics::Histogram>,
}

/// What changes seldom.
#[derive(Clone, Debug, Default)]
pub(super) struct Slow {
    pub(super) last_checkpointed: Option<i64>,
    pub(super) last_checkpoint_time: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
    pub(super) end: Option<End>,
    /// Where the receiver was opened.
    position: Option<EventPosition>,
    /// The treatment that ended the last receiver.
    treated: Option<Stall>,
}

/// The end of the partition's log, as the service told it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) last: LastEnqueuedEventProperties,
    /// Sequence number of the oldest event that is left; `None` if that was not told.
    pub(super) beginning: Option<i64>,
    pub(super) is_empty: bool,
    pub(super) told: Instant,
}

/// The hooks that are running.
#[derive(Debug, Default)]
struct Calls {
    begun: u64,
    running: Vec<Call>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    number: u64,
    hook: &'static str,
    since: Instant,
    is_told: bool,
}

/// A hook that has run for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowCall {
    pub(super) hook: &'static str,
    pub(super) running_for: Duration,
}

impl PartitionCell {
    pub(super) fn new() -> Self {
        Self {
            stage: AtomicU8::new(Stage::Starting as u8),
            is_unproven: AtomicBool::default(),
            is_stopped: AtomicBool::default(),
            is_stalled: AtomicBool::default(),
            retrying: AtomicU32::default(),
            received: AtomicU64::default(),
            delivered: AtomicU64::default(),
            processed: AtomicU64::default(),
            in_vain: AtomicU64::default(),
            last_received: AtomicI64::new(NONE),
            last_delivered: AtomicI64::new(NONE),
            last_processed: AtomicI64::new(NONE),
            processed_enqueued: AtomicI64::new(NONE),
            skipped: AtomicU64::default(),
            dead_letters: AtomicU64::default(),
            failures: AtomicU64::default(),
            restarts: AtomicU64::default(),
            stalls: AtomicU64::default(),
            slow_calls: AtomicU64::default(),
            calls: Mutex::default(),
            slow: Mutex::default(),
            order: Mutex::default(),
            ordered: Notify::new(),
            #[cfg(feature = "metrics")]
            durations: None,
        }
    }

    /// Has the calls of the handler timed.
    #[cfg(feature = "metrics")]
    pub(super) fn record_durations(mut self, durations: metrics::Histogram) -> Self {
        self.durations = Some(durations);
        self
    }

    // --- what the pump notes

    /// A term begins: after the checkpoint, if there is one and nobody asked for another place.
    pub(in crate::processor) fn term_begins(
        &self,
        checkpoint: Option<&Checkpoint>,
        is_detour: bool,
    ) {
        let number = checkpoint.and_then(|checkpoint| checkpoint.sequence_number);
        self.slow().last_checkpointed = number;
        let processed = number.filter(|_| !is_detour).unwrap_or(NONE);
        self.last_processed.store(processed, Ordering::Relaxed);
        self.last_delivered.store(NONE, Ordering::Relaxed);
        self.processed_enqueued.store(NONE, Ordering::Relaxed);
        // What was cut with the term before is not under way any more.
        self.in_vain.fetch_add(self.in_flight(), Ordering::Relaxed);
    }

    /// Events handed to the handler in this term that are not part of what is done.
    pub(super) fn in_flight(&self) -> u64 {
        // In this order, or what is done in between would count as more than was handed out.
        let processed = self.processed.load(Ordering::Relaxed);
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let delivered = self.delivered.load(Ordering::Relaxed);
        delivered.saturating_sub(processed).saturating_sub(in_vain)
    }

    pub(in crate::processor) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// A receiver is open.
    pub(super) fn opened(&self, position: &EventPosition) {
        self.last_received.store(NONE, Ordering::Relaxed);
        if let EventPosition::SequenceNumber {
            sequence_number,
            inclusive,
        } = position
        {
            let before = sequence_number.saturating_sub(i64::from(*inclusive));
            // Nothing is known to be processed; what lies before counts for nothing behind.
            let order = Ordering::Relaxed;
            let _ = self
                .last_processed
                .compare_exchange(NONE, before, order, order);
        }
        let mut slow = self.slow();
        slow.position = Some(position.clone());
        slow.treated = None;
        drop(slow);
        // An order was about the receiver before, and so was a doubt.
        self.take_order();
        self.is_proven(true);
        self.enter(Stage::Reading);
    }

    /// The receiver has brought events.
    pub(super) fn received(&self, events: &[ReceivedEvent]) {
        let Some(last) = events.last() else {
            return;
        };
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.received.fetch_add(count, Ordering::Relaxed);
        self.last_received
            .store(last.sequence_number(), Ordering::Relaxed);
        if let Some(last) = last.last_enqueued() {
            let mut slow = self.slow();
            let beginning = slow.end.as_ref().and_then(|end| end.beginning);
            slow.end = Some(End {
                last: last.clone(),
                beginning,
                is_empty: false,
                told: Instant::now(),
            });
        }
        // It brings something again: what was to be tried next is out of date.
        self.take_order();
    }

    /// An event goes to the handler.
    pub(in crate::processor) fn delivers(&self, sequence_number: i64) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.last_delivered
            .store(sequence_number, Ordering::Relaxed);
    }

    /// Everything up to `place` is done, `events` more than before.
    pub(in crate::processor) fn completed(&self, place: &Place, events: u64) {
        self.processed.fetch_add(events, Ordering::Relaxed);
        self.last_processed
            .store(place.sequence_number(), Ordering::Relaxed);
        self.processed_enqueued
            .store(millis(place.enqueued_time()), Ordering::Relaxed);
    }

    /// A hook runs for as long as what is returned lives.
    pub(in crate::processor) fn runs(&self, hook: &'static str) -> Running<'_> {
        let since = Instant::now();
        let mut calls = self.calls();
        let number = calls.begun;
        calls.begun += 1;
        calls.running.push(Call {
            number,
            hook,
            since,
            is_told: false,
        });
        Running { cell: self, number }
    }

    /// An event is being tried again, or a dead letter stored, for as long as what is returned lives.
    pub(in crate::processor) fn retries(&self) -> Retrying<'_> {
        self.retrying.fetch_add(1, Ordering::Relaxed);
        Retrying { cell: self }
    }

    pub(in crate::processor) fn is_proven(&self, is_proven: bool) {
        self.is_unproven.store(!is_proven, Ordering::Relaxed);
    }

    /// Whether a failure policy has stopped the partition, and not the application.
    pub(in crate::processor) fn stopped_by_policy(&self, is_stopped: bool) {
        self.is_stopped.store(is_stopped, Ordering::Relaxed);
    }

    pub(in crate::processor) fn checkpointed(&self, sequence_number: i64) {
        let mut slow = self.slow();
        slow.last_checkpointed = Some(sequence_number);
        slow.last_checkpoint_time = Some(SystemTime::now());
    }

    /// Something went wrong in the partition, and the application is told.
    pub(in crate::processor) fn failed(&self, error: &ProcessingError) {
        if let ProcessingError::Handler { .. } | ProcessingError::HandlerPanicked { .. } = error {
            self.failures.fetch_add(1, Ordering::Relaxed);
        } else if let ProcessingError::Skipped { .. } = error {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        self.slow().last_error = Some((telemetry::chain(error).to_string(), SystemTime::now()));
    }

    pub(in crate::processor) fn dead_lettered(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::processor) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// The treatment that ended the receiver, if one did.
    pub(in crate::processor) fn take_treated(&self) -> Option<Stall> {
        self.slow().treated.take()
    }

    pub(super) fn treats(&self, stall: Stall) {
        self.slow().treated = Some(stall);
    }

    /// The next order of the watchdog. Cancel safe.
    pub(super) async fn ordered(&self) -> Order {
        loop {
            if let Some(order) = self.take_order() {
                return order;
            }
            self.ordered.notified().await;
        }
    }

    fn take_order(&self) -> Option<Order> {
        self.order
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    // --- what others read and order

    pub(super) fn order(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        self.ordered.notify_one();
    }

    pub(super) fn set_stalled(&self, is_stalled: bool) {
        self.is_stalled.store(is_stalled, Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    pub(super) fn is_unproven(&self) -> bool {
        self.is_unproven.load(Ordering::Relaxed)
    }

    pub(super) fn is_retrying(&self) -> bool {
        self.retrying.load(Ordering::Relaxed) > 0
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            1 => Stage::Reading,
            2 => Stage::Reconnecting,
            _ => Stage::Starting,
        }
    }

    /// Grows with everything that is received, delivered and done.
    pub(super) fn progress(&self) -> u64 {
        [&self.received, &self.delivered, &self.processed]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    pub(super) fn has_received(&self) -> bool {
        self.last_received.load(Ordering::Relaxed) != NONE
    }

    /// Calls of `on_event` or `on_event_batch` that are running.
    pub(super) fn running_calls(&self) -> usize {
        let calls = self.calls();
        let is_event = |call: &&Call| call.hook.starts_with("on_event");
        calls.running.iter().filter(is_event).count()
    }

    /// Whether a hook has been running for so long.
    pub(super) fn is_busy_for(&self, long: Duration) -> bool {
        self.calls()
            .running
            .iter()
            .any(|call| call.since.elapsed() >= long)
    }

    /// The next call that has run for so long and was not told yet.
    pub(super) fn next_slow_call(&self, slow: Duration) -> Option<SlowCall> {
        let mut calls = self.calls();
        let is_slow = |call: &&mut Call| !call.is_told && call.since.elapsed() >= slow;
        let call = calls.running.iter_mut().find(is_slow)?;
        call.is_told = true;
        let (hook, running_for) = (call.hook, call.since.elapsed());
        drop(calls);
        self.slow_calls.fetch_add(1, Ordering::Relaxed);
        Some(SlowCall { hook, running_for })
    }

    /// The service told where the log ends.
    pub(super) fn told(&self, properties: &PartitionProperties) {
        let last = LastEnqueuedEventProperties {
            sequence_number: properties.last_enqueued_sequence_number,
            offset: properties.last_enqueued_offset.clone(),
            enqueued_time: properties.last_enqueued_time,
            retrieval_time: SystemTime::now(),
        };
        let is_empty = properties.is_empty
            || properties.beginning_sequence_number > properties.last_enqueued_sequence_number;
        let mut slow = self.slow();
        // An event may have told of a later one since.
        if slow
            .end
            .as_ref()
            .is_some_and(|end| end.last.sequence_number > last.sequence_number)
        {
            return;
        }
        slow.end = Some(End {
            last,
            beginning: Some(properties.beginning_sequence_number),
            is_empty,
            told: Instant::now(),
        });
    }

    /// Whether the service holds events behind the last one received, as far as it has told.
    pub(super) fn is_behind(&self) -> bool {
        let last_received = self.last_received.load(Ordering::Relaxed);
        let slow = self.slow();
        let (Some(end), Some(position)) = (&slow.end, &slow.position) else {
            return false;
        };
        if end.is_empty {
            return false;
        }
        let last = &end.last;
        if last_received != NONE {
            return last.sequence_number > last_received;
        }
        match position {
            EventPosition::Earliest => true,
            EventPosition::Latest => false,
            EventPosition::SequenceNumber {
                sequence_number,
                inclusive,
            } => last.sequence_number > sequence_number.saturating_sub(i64::from(*inclusive)),
            EventPosition::Offset { offset, inclusive } => {
                match self.last_delivered().or_else(|| self.last_processed()) {
                    Some(before) => last.sequence_number > before,
                    // Offsets are opaque; that of the last event itself says that nothing is missing.
                    None => *inclusive || last.offset != *offset,
                }
            }
            EventPosition::EnqueuedTime { time, inclusive } => {
                last.enqueued_time > *time || (*inclusive && last.enqueued_time == *time)
            }
        }
    }

    pub(super) fn seldom(&self) -> Slow {
        self.slow().clone()
    }

    pub(super) fn last_delivered(&self) -> Option<i64> {
        number(&self.last_delivered)
    }

    pub(super) fn last_processed(&self) -> Option<i64> {
        number(&self.last_processed)
    }

    pub(super) fn processed_enqueued(&self) -> Option<SystemTime> {
        let millis = u64::try_from(number(&self.processed_enqueued)?).ok()?;
        Some(UNIX_EPOCH + Duration::from_millis(millis))
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // A panic cannot leave any of these half changed.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hook that is running.
#[derive(Debug)]
pub(in crate::processor) struct Running<'a> {
    cell: &'a PartitionCell,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut calls = self.cell.calls();
        let place = calls
            .running
            .iter()
            .position(|call| call.number == self.number);
        let ended = place.map(|place| calls.running.swap_remove(place));
        drop(calls);
        #[cfg(feature = "metrics")]
        if let (Some(call), Some(durations)) = (ended, &self.cell.durations)
            && call.hook.starts_with("on_event")
        {
            durations.record(call.since.elapsed());
        }
        #[cfg(not(feature = "metrics"))]
        let _ = ended;
    }
}

/// An event that is being tried again.
#[derive(Debug)]
pub(in crate::processor) struct Retrying<'a> {
    cell: &'a PartitionCell,
}

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.cell.retrying.fetch_sub(1, Ordering::Relaxed);
    }
}

fn number(cell: &AtomicI64) -> Option<i64> {
    Some(cell.load(Ordering::Relaxed)).filter(|number| *number != NONE)
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventParts;

    fn event(sequence_number: i64) -> ReceivedEvent {
        let offset = (sequence_number * 100).to_string();
        let parts = EventParts::new(sequence_number, offset.as_str(), UNIX_EPOCH, "a");
        ReceivedEvent::new(parts)
    }

    fn end(beginning: i64, last: i64, is_empty: bool) -> PartitionProperties {
        PartitionProperties {
            event_hub_name: "hub".to_owned(),
            partition_id: "0".into(),
            beginning_sequence_number: beginning,
            last_enqueued_sequence_number: last,
            last_enqueued_offset: (last * 100).to_string().into(),
            last_enqueued_time: UNIX_EPOCH + Duration::from_secs(10),
            is_empty,
        }
    }

    fn is_behind(position: &EventPosition, end: &PartitionProperties) -> bool {
        let cell = PartitionCell::new();
        cell.told(end);
        cell.opened(position);
        cell.is_behind()
    }

    #[test]
    fn behind_is_who_has_not_received_what_the_service_still_holds() {
        let full = end(0, 9, false);
        let time = UNIX_EPOCH + Duration::from_secs(10);
        for (position, expected) in [
            (EventPosition::Earliest, true),
            (EventPosition::Latest, false),
            (EventPosition::sequence_number(8), true),
            (EventPosition::sequence_number(9), false),
            (EventPosition::sequence_number(9).inclusive(), true),
            (EventPosition::offset("800"), true),
            (EventPosition::offset("900"), false),
            (EventPosition::offset("900").inclusive(), true),
            (
                EventPosition::enqueued_time(time - Duration::from_secs(1)),
                true,
            ),
            (EventPosition::enqueued_time(time), false),
        ] {
            assert_eq!(is_behind(&position, &full), expected, "{position:?}");
        }
        // Everything has expired: there is nothing to come, whatever the numbers say.
        assert!(!is_behind(
            &EventPosition::sequence_number(3),
            &end(10, 9, false)
        ));
        assert!(!is_behind(&EventPosition::Earliest, &end(0, 9, true)));
    }

    #[test]
    fn what_was_received_counts_not_where_the_receiver_began() {
        let cell = PartitionCell::new();
        assert!(!cell.is_behind(), "nothing is known");
        cell.opened(&EventPosition::Earliest);
        cell.told(&end(0, 9, false));
        cell.received(&[event(3), event(4)]);
        assert!(cell.is_behind());
        cell.received(&[event(9)]);
        assert!(!cell.is_behind());
    }

    #[test]
    fn an_old_answer_replaces_no_newer_one() {
        let cell = PartitionCell::new();
        cell.told(&end(0, 9, false));
        cell.told(&end(0, 7, false));
        assert_eq!(cell.seldom().end.unwrap().last.sequence_number, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_is_told_once() {
        let cell = PartitionCell::new();
        let slow = Duration::from_secs(60);
        let first = cell.runs("on_event");
        tokio::time::advance(slow).await;
        let second = cell.runs("on_idle");
        let told = cell.next_slow_call(slow).unwrap();
        assert_eq!((told.hook, told.running_for), ("on_event", slow));
        assert!(cell.next_slow_call(slow).is_none());
        assert_eq!(cell.running_calls(), 1);
        drop(first);
        tokio::time::advance(slow).await;
        assert_eq!(cell.next_slow_call(slow).unwrap().hook, "on_idle");
        drop(second);
        assert!(!cell.is_busy_for(Duration::ZERO));
        assert_eq!(cell.slow_calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_order_is_out_of_date_once_something_comes() {
        let cell = PartitionCell::new();
        cell.order(Order::Nudge);
        assert_eq!(cell.ordered().await, Order::Nudge);
        cell.order(Order::Nudge);
        cell.received(&[event(0)]);
        let waiting = tokio::time::timeout(Duration::from_millis(1), cell.ordered()).await;
        assert!(waiting.is_err());
    }
}
