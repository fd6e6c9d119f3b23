//! The `Date` header of our answers (RFC 9110, section 6.6.1). hyper's own `Date` stays the same
//! after the clock is set back, until the clock catches up.

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use http::header::DATE;
use http::{HeaderMap, HeaderValue};

use crate::base::clock::Clock;

/// The last second that the header can express.
const LAST_SECS: u64 = 253_402_300_799;

thread_local! {
    /// The latest second and its header value.
    static WRITTEN: RefCell<(u64, HeaderValue)> = RefCell::new((0, written(0)));
}

/// Sets `Date`, unless the upstream or handler has set it.
pub(super) fn say(headers: &mut HeaderMap) {
    let date = headers.entry(DATE);
    date.or_insert_with(|| at(Clock::system().unix_secs()));
}

/// The header value for this second. Each worker thread formats a second once.
fn at(unix_secs: u64) -> HeaderValue {
    WRITTEN.with_borrow_mut(|last| {
        if last.0 != unix_secs {
            *last = (unix_secs, written(unix_secs));
        }
        last.1.clone()
    })
}

fn written(unix_secs: u64) -> HeaderValue {
    let time = UNIX_EPOCH + Duration::from_secs(unix_secs.min(LAST_SECS));
    HeaderValue::try_from(httpdate::fmt_http_date(time)).expect("a date is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_clock_forward_and_back() {
        for (secs, date) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(at(secs), date);
        }
    }
}
