//! Faults of the blob side, for tests of checkpoint stores.

use std::time::Duration;

use axum::http::StatusCode;

use crate::blob::BlobFaults as Faults;

/// Disturbs requests to the blob side on purpose.
///
/// From [`Emulator::blob_faults`](crate::Emulator::blob_faults).
#[derive(Debug, Clone)]
pub struct BlobFaults {
    faults: Faults,
}

impl BlobFaults {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// Refuses the next `times` requests with an HTTP status and an error code such as
    /// `ServerBusy`. A status outside 100 to 999 becomes 500.
    pub fn fail_next(&self, times: u32, status: u16, code: &str, retry_after: Option<Duration>) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.faults.fail_next(times, status, code, retry_after);
    }

    /// Delays every request until [`clear`](Self::clear).
    pub fn delay(&self, delay: Duration) {
        self.faults.delay(delay);
    }

    /// Applies the next `times` requests but closes the connection in place of the reply.
    pub fn drop_reply_after_apply(&self, times: u32) {
        self.faults.drop_reply_after_apply(times);
    }

    /// While on, closes every connection without a reply.
    pub fn outage(&self, is_out: bool) {
        self.faults.outage(is_out);
    }

    /// While on, holds every request; those that wait take effect afterwards.
    pub fn freeze(&self, is_frozen: bool) {
        self.faults.freeze(is_frozen);
    }

    /// While on, listings show the state of the moment this was switched on.
    pub fn stale_listings(&self, are_stale: bool) {
        self.faults.stale_listings(are_stale);
    }

    /// Moves the `Date` header of replies forward, or into the past.
    pub fn skew_date(&self, by: Duration, into_the_past: bool) {
        self.faults.skew_date(by, into_the_past);
    }

    /// Takes back everything that waits or lasts.
    pub fn clear(&self) {
        self.faults.clear();
    }
}
