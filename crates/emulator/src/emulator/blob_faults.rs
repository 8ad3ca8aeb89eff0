//! Faults of the blob side, for tests of checkpoint stores.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};

use crate::blob::{
    ActiveBlobFault, BlobFaults as Faults, BlobOperation, FaultEffect, FaultReply, FaultScope,
    LastModified,
};

/// Disturbs requests to the blob side on purpose.
///
/// From [`Emulator::blob_faults`](crate::Emulator::blob_faults); it concerns all requests unless
/// [`on_operation`](Self::on_operation) or [`on_names_with`](Self::on_names_with) narrow it.
#[derive(Debug, Clone)]
pub struct BlobFaults {
    faults: Faults,
    scope: FaultScope,
}

impl BlobFaults {
    pub(crate) fn new(faults: Faults) -> Self {
        Self {
            faults,
            scope: FaultScope::default(),
        }
    }

    /// The same faults, of which those with a number of `times` and delays that are ordered here
    /// meet only requests of one kind.
    #[must_use]
    pub fn on_operation(&self, operation: BlobOperation) -> Self {
        let mut narrowed = self.clone();
        narrowed.scope.operation = Some(operation);
        narrowed
    }

    /// The same faults, of which those with a number of `times` and delays that are ordered here
    /// meet only blobs whose name, and listings whose prefix, contains `text`.
    #[must_use]
    pub fn on_names_with(&self, text: impl Into<String>) -> Self {
        let mut narrowed = self.clone();
        narrowed.scope.name_contains = Some(text.into());
        narrowed
    }

    /// The same faults, of which those with a number of `times` and delays that are ordered here
    /// spare the first `count` requests they would meet: the second page of a listing, for one.
    #[must_use]
    pub fn after(&self, count: u32) -> Self {
        let mut narrowed = self.clone();
        narrowed.scope.after = count;
        narrowed
    }

    /// The same faults, of which those with a number of `times` and delays that are ordered here
    /// act on this share of their occasions, from 0 to 1. Chance follows from [`seed`](Self::seed).
    #[must_use]
    pub fn with_chance(&self, chance: f64) -> Self {
        let mut narrowed = self.clone();
        narrowed.scope.chance = Some(chance);
        narrowed
    }

    /// Starts chance anew: the same seed and the same requests in the same order give the same
    /// faults.
    pub fn seed(&self, seed: u64) {
        self.faults.seed(seed);
    }

    /// Lets the next `times` requests take effect twice, as a repetition on the way does, and
    /// answers as to the second.
    pub fn apply_twice(&self, times: u32) {
        self.add(FaultEffect::ApplyTwice, Some(times));
    }

    /// Moves the time of the last change by so many seconds, or into the past with a number below
    /// zero, in the next `times` replies, listings included. What is stored stays.
    pub fn skew_last_modified(&self, times: u32, seconds: i64) {
        let how = LastModified::Moved(seconds);
        self.add(FaultEffect::LastModified(how), Some(times));
    }

    /// Leaves the time of the last change out of the next `times` replies, listings included.
    pub fn omit_last_modified(&self, times: u32) {
        let how = LastModified::Missing;
        self.add(FaultEffect::LastModified(how), Some(times));
    }

    /// Refuses the next `times` requests with an HTTP status and an error code such as
    /// `ServerBusy`. A status outside 100 to 999 becomes 500.
    pub fn fail_next(&self, times: u32, status: u16, code: &str, retry_after: Option<Duration>) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reply = FaultReply {
            status,
            code: code.to_owned(),
            retry_after,
        };
        self.add(FaultEffect::Refuse(reply), Some(times));
    }

    /// Delays every request until [`clear`](Self::clear).
    pub fn delay(&self, delay: Duration) {
        self.add(FaultEffect::Delay(delay), None);
    }

    /// Delays the next `times` requests; they take effect afterwards also if the client has given
    /// up.
    pub fn delay_next(&self, times: u32, delay: Duration) {
        self.add(FaultEffect::Delay(delay), Some(times));
    }

    /// Closes the connection of the next `times` requests, which have no effect.
    pub fn drop_request(&self, times: u32) {
        self.add(FaultEffect::DropRequest, Some(times));
    }

    /// Applies the next `times` requests but closes the connection in place of the reply.
    pub fn drop_reply_after_apply(&self, times: u32) {
        self.add(FaultEffect::DropReply, Some(times));
    }

    /// Sends half of the next `times` bodies and then nothing, with the connection open.
    pub fn hang_body(&self, times: u32) {
        self.add(FaultEffect::HangBody, Some(times));
    }

    /// Sends half of the next `times` bodies and closes the connection.
    pub fn truncate_body(&self, times: u32) {
        self.add(FaultEffect::TruncateBody, Some(times));
    }

    /// Sends another body than that of the reply, `times` times.
    pub fn replace_body(&self, times: u32, body: impl Into<Vec<u8>>) {
        self.replace_body_with_many(times, body, 1);
    }

    /// As [`replace_body`](Self::replace_body), with this text again and again: a body of any size.
    pub fn replace_body_with_many(&self, times: u32, part: impl Into<Vec<u8>>, count: usize) {
        let part = part.into().into();
        self.add(FaultEffect::ReplaceBody { part, count }, Some(times));
    }

    /// Sets a header of the next `times` replies, such as `Last-Modified`, or takes it away; false
    /// if the name or the value cannot be in a header.
    #[must_use = "nothing is disturbed if the header is not possible"]
    pub fn edit_header(&self, times: u32, name: &str, value: Option<&str>) -> bool {
        let Ok(name) = HeaderName::try_from(name) else {
            return false;
        };
        let Ok(value) = value.map(HeaderValue::try_from).transpose() else {
            return false;
        };
        self.add(FaultEffect::EditHeader(name, value), Some(times));
        true
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

    /// How often each fault has acted, by its name on the control port.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.faults.counts().into_iter();
        counts
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    }

    /// Takes back everything that waits or lasts.
    pub fn clear(&self) {
        self.faults.clear();
    }

    pub(crate) fn active(&self) -> Vec<ActiveBlobFault> {
        self.faults.active()
    }

    fn add(&self, effect: FaultEffect, times: Option<u32>) {
        if times == Some(0) {
            return;
        }
        self.faults.add(self.scope.clone(), effect, times);
    }
}
