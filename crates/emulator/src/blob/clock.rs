//! Wall time as the endpoint sees it, and its textual forms.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::{
    Date, OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

/// A source of wall time; the service's clock, which a test may skew or drive.
#[derive(Clone)]
pub(crate) struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl WallClock {
    /// Reads time from `now`.
    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}

/// Cuts a time down to whole seconds.
///
/// PROTOCOL: `Last-Modified` is an HTTP date; the service compares what it has shown.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Formats a time as an HTTP date.
pub(crate) fn http_date(time: SystemTime) -> String {
    // `fmt_http_date` panics outside the years 1970 to 9999; a skewed clock must not get there.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(time.clamp(UNIX_EPOCH, last))
}

/// Formats a time as error bodies give it, with seven fractional digits.
pub(crate) fn iso_date(time: SystemTime) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:7]Z");
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    OffsetDateTime::from(time.clamp(UNIX_EPOCH, last))
        .format(FORM)
        .unwrap_or_default()
}

/// Parses the time forms a shared access signature may use.
pub(crate) fn parse_sas_time(text: &str) -> Option<SystemTime> {
    // PROTOCOL: `YYYY-MM-DD`, `YYYY-MM-DDThh:mmTZD` and forms with seconds are allowed.
    const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
    const MINUTE: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]Z");
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| {
            let minute = PrimitiveDateTime::parse(text, MINUTE).ok()?;
            Some(minute.assume_utc())
        })
        .or_else(|| Some(Date::parse(text, DAY).ok()?.midnight().assume_utc()))
        .map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_stay_inside_what_the_formatters_take() {
        let far = UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        assert_eq!(http_date(far), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(iso_date(UNIX_EPOCH), "1970-01-01T00:00:00.0000000Z");
    }

    #[test]
    fn signature_times_parse_in_every_allowed_form() {
        let midnight = UNIX_EPOCH + Duration::from_secs(86_400);
        for text in [
            "1970-01-02",
            "1970-01-02T00:00Z",
            "1970-01-02T00:00:00Z",
            "1970-01-02T01:00:00.0000000+01:00",
        ] {
            assert_eq!(parse_sas_time(text), Some(midnight), "{text}");
        }
        assert_eq!(parse_sas_time("tomorrow"), None);
    }
}
