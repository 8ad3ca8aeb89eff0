//! The fault that shows other times of the last change.

use std::time::{Duration, SystemTime};

use axum::http::header::LAST_MODIFIED;

use super::{clock::http_date, faults::LastModified, response::Reply};

const OPEN: &str = "<Last-Modified>";
const CLOSE: &str = "</Last-Modified>";

impl LastModified {
    /// Changes the header and, in a listing, each element.
    pub(super) fn show_in(self, reply: &mut Reply) {
        if let Some(value) = reply.headers.remove(LAST_MODIFIED)
            && let Some(shown) = value.to_str().ok().and_then(|text| self.instead_of(text))
        {
            reply.set(LAST_MODIFIED, &shown);
        }
        let Ok(text) = std::str::from_utf8(&reply.body) else {
            return;
        };
        if text.contains(OPEN) {
            reply.body = self.show_in_listing(text).into();
        }
    }

    fn show_in_listing(self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once(OPEN) {
            let Some((date, after)) = behind.split_once(CLOSE) else {
                break;
            };
            shown.push_str(before);
            if let Some(date) = self.instead_of(date) {
                shown.extend([OPEN, &date, CLOSE]);
            }
            rest = after;
        }
        shown.push_str(rest);
        shown
    }

    /// None if nothing is to be shown.
    fn instead_of(self, date: &str) -> Option<String> {
        let Self::Moved(seconds) = self else {
            return None;
        };
        let time = httpdate::parse_http_date(date).ok()?;
        let by = Duration::from_secs(seconds.unsigned_abs());
        let moved = match seconds < 0 {
            true => time.checked_sub(by),
            false => time.checked_add(by),
        };
        Some(http_date(moved.unwrap_or(SystemTime::UNIX_EPOCH)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_a_listing_is_changed() {
        let listing = |date: &str| format!("<a/>{date}<b/>{date}<c/>");
        let date = |text: &str| format!("{OPEN}{text}{CLOSE}");
        let text = listing(&date("Thu, 01 Jan 1970 00:10:00 GMT"));
        let moved = LastModified::Moved(-600).show_in_listing(&text);
        assert_eq!(moved, listing(&date("Thu, 01 Jan 1970 00:00:00 GMT")));
        let missing = LastModified::Missing.show_in_listing(&text);
        assert_eq!(missing, listing(""));
    }
}
