//! Where events wait for their receiver, and the links that have such a place.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::super::stream::READ_BUFFER;
use super::credit::Credit;

/// Memory that slices in a queue may keep beyond four times their own size. After that they are copied: few small
/// events, each in a buffer with those of other partitions, would keep all these buffers.
const MAX_PINNED: usize = 16 * READ_BUFFER;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::transport::amqp) enum Payload {
    Whole(Bytes),
    /// It grew too large; the beginning was kept.
    TooLarge {
        start: Bytes,
        len: u64,
    },
}

impl Payload {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::Whole(bytes) | Self::TooLarge { start: bytes, .. } => bytes,
        }
    }

    /// The same, in memory of its own.
    fn copied(self) -> Self {
        match self {
            Self::Whole(bytes) => Self::Whole(Bytes::copy_from_slice(&bytes)),
            Self::TooLarge { start, len } => Self::TooLarge {
                start: Bytes::copy_from_slice(&start),
                len,
            },
        }
    }
}

/// Why nothing more comes, besides what the library finds out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport::amqp) enum End {
    /// Another receiver took the partition: what is here is theirs, too.
    Stolen,
    /// The events turned out so much larger than those before them that not all could be kept.
    Overrun,
    /// The peer broke the rules, and the connection was ended for it.
    Violation(&'static str),
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Payload>,
    bytes: usize,
    /// Deliveries since the attach.
    arrived: u32,
    credit: Credit,
    /// Read buffers that slices in the queue may keep, and the number of the last one.
    buffers: usize,
    last_buffer: u64,
    end: Option<End>,
    is_closed: bool,
}

/// The events of one link, on their way from the stream to the receiver.
#[derive(Debug)]
pub(in crate::transport::amqp) struct EventQueue {
    state: Mutex<State>,
    news: Notify,
}

/// What a receiver finds.
#[derive(Debug, Default)]
pub(in crate::transport::amqp) struct Taken {
    pub(in crate::transport::amqp) messages: Vec<Payload>,
    pub(in crate::transport::amqp) end: Option<End>,
    /// The limit was moved: a flow has to go out.
    pub(in crate::transport::amqp) owes_credit: bool,
}

impl EventQueue {
    fn new(most_events: u32, most_bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                arrived: 0,
                credit: Credit::new(most_events, most_bytes),
                buffers: 0,
                last_buffer: 0,
                end: None,
                is_closed: false,
            }),
            news: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, and every update leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit of deliveries that the peer may be told.
    pub(super) fn limit(&self) -> u32 {
        self.lock().credit.limit()
    }

    /// Whether one more message is taken; if there is no room for it, the link has come to its end.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.lock();
        if state.end.is_none() && !state.is_closed && state.credit.is_overrun(state.bytes) {
            state.end = Some(End::Overrun);
            drop(state);
            self.news.notify_one();
            return false;
        }
        state.end.is_none() && !state.is_closed
    }

    /// Takes what came with the read buffer of this number, in order. `arrived` counts all deliveries so far.
    pub(super) fn push(&self, messages: &mut Vec<Payload>, arrived: u32, buffer: u64) {
        let mut state = self.lock();
        state.arrived = arrived;
        let is_unwanted = state.is_closed || state.end.is_some();
        for message in messages.drain(..) {
            let len = message.bytes().len();
            state.credit.note(len);
            if is_unwanted || state.end.is_some() {
                continue;
            }
            if state.credit.is_overrun(state.bytes) {
                state.end = Some(End::Overrun);
                continue;
            }
            if state.waiting.is_empty() {
                state.buffers = 0;
            }
            let is_copied = state.buffers * READ_BUFFER > MAX_PINNED + 4 * state.bytes;
            let message = if is_copied {
                message.copied()
            } else {
                if state.buffers == 0 || state.last_buffer != buffer {
                    state.buffers += 1;
                    state.last_buffer = buffer;
                }
                message
            };
            state.bytes += len;
            state.waiting.push_back(message);
        }
        drop(state);
        self.news.notify_one();
    }

    /// Nothing more comes.
    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        if end == End::Stolen {
            state.end = Some(end);
            state.clear();
        }
        drop(state);
        self.news.notify_one();
    }

    /// Takes messages that are here, `max` of them at most and no more bytes than a quarter of the limit, or one.
    /// What the last call took counts as done with.
    pub(in crate::transport::amqp) fn take(&self, max: usize) -> Taken {
        let mut state = self.lock();
        let most_bytes = state.credit.most_bytes() / 4;
        let mut messages = Vec::with_capacity(state.waiting.len().min(max));
        let mut bytes = 0;
        while messages.len() < max {
            let Some(next) = state.waiting.front().map(|next| next.bytes().len()) else {
                break;
            };
            if !messages.is_empty() && bytes + next > most_bytes {
                break;
            }
            bytes += next;
            messages.extend(state.waiting.pop_front());
        }
        state.bytes -= bytes;
        // What is taken is still in memory until the next call.
        let (arrived, events, held) = (state.arrived, state.waiting.len(), state.bytes + bytes);
        let owes_credit = state.end.is_none() && state.credit.update(arrived, events, held);
        Taken {
            messages,
            end: state.end,
            owes_credit,
        }
    }

    /// Waits until there is something to take or to know.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future misses nothing.
    pub(in crate::transport::amqp) async fn news(&self) {
        self.news.notified().await;
    }

    /// Why the link ended, as far as it is known here.
    pub(in crate::transport::amqp) fn why(&self) -> Option<End> {
        self.lock().end
    }

    pub(in crate::transport::amqp) fn buffered_bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(in crate::transport::amqp) fn set_byte_limit(&self, bytes: usize) {
        self.lock().credit.set_most_bytes(bytes);
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.clear();
    }
}

impl State {
    fn clear(&mut self) {
        self.waiting = VecDeque::new();
        self.bytes = 0;
    }
}

/// The event links of a connection by the names that we gave them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::transport::amqp) struct Links {
    queues: Arc<Mutex<HashMap<String, Arc<EventQueue>>>>,
}

impl Links {
    /// Makes the link with this name, which is to be attached, an event link. It gets credit for `most_events` events
    /// of `most_bytes` bytes altogether.
    pub(in crate::transport::amqp) fn register(
        &self,
        name: String,
        most_events: u32,
        most_bytes: usize,
    ) -> Registered {
        let queue = Arc::new(EventQueue::new(most_events, most_bytes));
        self.lock().insert(name.clone(), Arc::clone(&queue));
        Registered {
            links: self.clone(),
            name,
            queue,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<EventQueue>> {
        self.lock().get(name).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<EventQueue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiver's side of an event link. When it is dropped, what still comes is thrown away.
#[derive(Debug)]
pub(in crate::transport::amqp) struct Registered {
    links: Links,
    name: String,
    queue: Arc<EventQueue>,
}

impl Registered {
    pub(in crate::transport::amqp) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::transport::amqp) fn queue(&self) -> &EventQueue {
        &self.queue
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.links.lock().remove(&self.name);
        self.queue.close();
    }
}
