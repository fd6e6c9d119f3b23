//! The clocks of other machines. Servers send their time with every answer (`Date`, RFC 9110,
//! section 6.6.1), so no extra request is needed.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{AGE, DATE};
use tokio::time::Instant;

use super::Relay;

/// An older reading does not count: the server may be gone, and our clock may have been set.
const FRESH: Duration = Duration::from_secs(3_600);

/// A reading of a server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The server's clock, in Unix seconds.
    secs: u64,
    /// The time of the reading.
    at: Instant,
}

impl Heard {
    /// Reads the server's clock from an answer. Ignores a cached answer, whose date is the time of
    /// caching.
    pub(super) fn of(headers: &HeaderMap, at: Instant) -> Option<Self> {
        if headers.contains_key(AGE) {
            return None;
        }
        let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
        let secs = date.duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Self { secs, at })
    }

    /// Returns by how many seconds the server's clock is ahead of a clock that shows `now_secs` at
    /// `now`.
    fn ahead_of(self, now_secs: u64, now: Instant) -> Option<i64> {
        let passed = now.saturating_duration_since(self.at);
        let there = self.secs.saturating_add(passed.as_secs());
        (passed <= FRESH).then(|| there.cast_signed().saturating_sub(now_secs.cast_signed()))
    }
}

impl Relay {
    /// Returns how many seconds our clock is behind the endpoints' clocks (negative: ahead), by the
    /// clock with the smallest difference. Returns `None` without a recent reading.
    pub fn clock_behind_secs(&self) -> Option<i64> {
        let (now, now_secs) = (Instant::now(), self.clock.unix_secs());
        let heard = self.endpoints.iter().filter_map(|it| it.state().heard);
        heard
            .filter_map(|heard| heard.ahead_of(now_secs, now))
            .min_by_key(|behind| behind.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_clock_is_held_against_what_a_server_said_and_the_time_since() {
        let mut headers = HeaderMap::new();
        let at = Instant::now();
        assert_eq!(Heard::of(&headers, at), None);
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        headers.insert(DATE, date);
        let heard = Heard::of(&headers, at).unwrap();
        let after = |secs| at + Duration::from_secs(secs);
        for (ours, passed, behind) in [
            (784_111_777, 0, Some(0)),
            (784_111_777 - 600, 0, Some(600)),
            (784_111_777 + 86_400 + 60, 60, Some(-86_400)),
            (784_111_777, 3_600, Some(3_600)),
            (784_111_777, 3_601, None),
        ] {
            assert_eq!(
                heard.ahead_of(ours, after(passed)),
                behind,
                "{ours} {passed}"
            );
        }
        headers.insert(AGE, HeaderValue::from_static("7"));
        assert_eq!(Heard::of(&headers, at), None);
        headers.remove(AGE);
        headers.insert(DATE, HeaderValue::from_static("yesterday"));
        assert_eq!(Heard::of(&headers, at), None);
    }
}
