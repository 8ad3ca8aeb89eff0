//! Everything a peer could make large has its bound here.

use std::time::Duration;

/// Largest frame read from a peer, stated in our `open`. PROTOCOL: the service states 64 KiB as well.
pub(crate) const MAX_FRAME: u32 = 65_536;
/// Largest frame read before the peer's `open` was accepted: SASL frames are at most 512 bytes by
/// the standard, the `open` frames of the SDKs stay below 1 KiB.
pub(crate) const MAX_FRAME_BEFORE_OPEN: u32 = 16_384;
/// Smallest frame size a peer may state (AMQP 1.0 part 2, 2.4.1, MIN-MAX-FRAME-SIZE).
pub(crate) const MIN_MAX_FRAME: u32 = 512;
/// Nesting of described, list, map and array values.
pub(crate) const MAX_DEPTH: usize = 64;
/// Values in one frame or message, counting those inside lists, maps and arrays.
pub(crate) const MAX_ELEMENTS: u32 = 65_536;
/// Largest event or batch. PROTOCOL: Standard tier of the service.
pub(crate) const MAX_MESSAGE: usize = 1024 * 1024;
/// Messages of which some frames are still to come, over all connections.
pub(crate) const MAX_INCOMPLETE: usize = 256 * 1024 * 1024;
/// Highest channel number, hence sessions per connection minus one.
pub(crate) const CHANNEL_MAX: u16 = 255;
/// Links per session, those waiting for the peer's detach included.
pub(crate) const MAX_LINKS_PER_SESSION: usize = 1024;
/// Open connections per emulator.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Link names: JS uses the whole entity address plus a uuid.
pub(crate) const MAX_LINK_NAME: usize = 1024;
/// Text of a selector filter.
pub(crate) const MAX_FILTER: usize = 1024;
/// `$cbs` or `$management` replies waiting for credit on one link.
pub(crate) const MAX_PENDING_REPLIES: usize = 64;
/// Replies of one connection that a fault holds back.
pub(crate) const MAX_LATE_REPLIES: usize = 256;
/// Put-token grants kept per connection.
pub(crate) const MAX_GRANTS: usize = 1024;
/// Event hubs of one emulator.
pub(crate) const MAX_HUBS: usize = 1024;
/// Partitions of one event hub. PROTOCOL: dedicated tier of the service.
pub(crate) const MAX_PARTITIONS: u32 = 2000;
/// Transfer frames a peer may send before the next flow.
pub(crate) const INCOMING_WINDOW: u32 = 5000;
/// Messages a publisher may send before the next flow.
pub(crate) const PUBLISHER_CREDIT: u32 = 1000;
/// Credit on request links. PROTOCOL: the service grants 100.
pub(crate) const REQUEST_CREDIT: u32 = 100;
/// Output that may wait in memory for one socket before deliveries and reads stop.
pub(crate) const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Time from accept to the peer's `open`.
pub(crate) const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A peer that takes no byte for this long while output waits is cut off.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);
/// Time a closing connection gets to take its last bytes.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// An event link without traffic for this long is detached. PROTOCOL: as the service does.
pub(crate) const LINK_IDLE: Duration = Duration::from_secs(30 * 60);
/// A connection without links for this long is closed. PROTOCOL: as the service does.
pub(crate) const CONNECTION_IDLE: Duration = Duration::from_secs(5 * 60);
/// How often a connection looks for idleness, which may be that much late.
pub(crate) const IDLE_CHECK: Duration = Duration::from_secs(10);
/// Stated in our `open`, not enforced.
/// INTEROP: Python producers pump only while in a call, so enforcing it would cut them off.
pub(crate) const IDLE_TIMEOUT_MS: u32 = 240_000;
/// Longest silence towards a peer. INTEROP: go-amqp gives up after 30 s without a byte.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// INTEROP: fe2o3-amqp up to 0.16.2 loses a disposition that overtakes its own bookkeeping; with
/// 1 ms and more no loss was seen.
pub(crate) const DISPOSITION_DELAY: Duration = Duration::from_millis(2);
/// INTEROP: fe2o3-amqp up to 0.16.2, and with it the official Rust SDK, closes the connection if the
/// answer to a detach comes between the detach and the `end` that it sends right after it.
pub(crate) const DETACH_DELAY: Duration = Duration::from_millis(2);
