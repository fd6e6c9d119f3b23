//! Evaluates a request's preconditions and range (RFC 9110, sections 13 and 14). Pure functions.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// A version of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version<'a> {
    /// The strong entity tag: in quotes, without `W/`.
    pub(super) etag: &'a [u8],
    /// The modification time, in seconds since 1970.
    pub(super) modified_secs: i64,
    /// The length in bytes.
    pub(super) size: u64,
}

/// The answer to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole file.
    Whole,
    /// These bytes of the file.
    Part(Range<u64>),
    /// 304: the file has not changed.
    NotModified,
    /// 412: a precondition failed.
    Unmet,
    /// 416: the range is outside the file.
    NoSuchPart,
}

/// Returns the answer to a GET or HEAD with these headers.
pub(super) fn wanted(headers: &HeaderMap, version: &Version<'_>) -> Wanted {
    let is_met = if headers.contains_key(IF_MATCH) {
        names(headers, &IF_MATCH, |tag| tag == version.etag)
    } else {
        date(headers, &IF_UNMODIFIED_SINCE).is_none_or(|since| version.modified_secs <= since)
    };
    if !is_met {
        return Wanted::Unmet;
    }
    let is_known = if headers.contains_key(IF_NONE_MATCH) {
        let is_same = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag) == version.etag;
        names(headers, &IF_NONE_MATCH, is_same)
    } else {
        date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| version.modified_secs <= since)
    };
    if is_known {
        return Wanted::NotModified;
    }
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    match range.filter(|_| is_of_this_version(headers, version)) {
        None => Wanted::Whole,
        Some(range) => part(range, version.size).map_or(Wanted::NoSuchPart, Wanted::Part),
    }
}

/// Whether `If-Range` matches this version or is absent. A weak tag never matches (section 13.1.5).
fn is_of_this_version(headers: &HeaderMap, version: &Version<'_>) -> bool {
    let Some(named) = headers.get(IF_RANGE) else {
        return true;
    };
    let is_tag = named.as_bytes().ends_with(b"\"");
    if is_tag {
        named.as_bytes() == version.etag
    } else {
        date(headers, &IF_RANGE) == Some(version.modified_secs)
    }
}

/// Whether one of the tags in this header matches, or the header is `*`.
fn names(headers: &HeaderMap, name: &HeaderName, is_it: impl Fn(&[u8]) -> bool) -> bool {
    let lines = headers.get_all(name).iter();
    // A tag may contain a comma. Our tags contain none, so a piece of another tag never equals
    // ours.
    let mut tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tags.any(|tag| {
        let tag = tag.trim_ascii();
        tag == b"*" || is_it(tag)
    })
}

/// Returns the date in this header, in seconds since 1970. An invalid date is ignored.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let text = headers.get(name)?.to_str().ok()?;
    let date: SystemTime = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Returns the single range in the header, in the form `bytes=0-9`, `bytes=10-` or `bytes=-10`.
/// Returns `None` if the header selects no byte or several ranges.
fn part(range: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that does not fit lies beyond the end of any file.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let part = if first.is_empty() {
        size.saturating_sub(number(last)?)..size
    } else {
        let first: u64 = number(first)?;
        let end = match last {
            "" => size,
            last => {
                let last: u64 = number(last)?;
                if last < first {
                    return None;
                }
                last.saturating_add(1).min(size)
            }
        };
        first..end
    };
    (part.start < part.end).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";
    /// The modification time of the file, and a second before and after.
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn asked(headers: &[(&str, &str)]) -> Wanted {
        let version = Version {
            etag: ETAG.as_bytes(),
            modified_secs: 784_111_777,
            size: 100,
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        wanted(&map, &version)
    }

    #[test]
    fn a_range_selects_bytes_that_exist() {
        for (range, part) in [
            ("bytes=0-9", 0..10),
            ("bytes=99-", 99..100),
            ("bytes=0-99999999999999999999999", 0..100),
            ("bytes=-1", 99..100),
            ("bytes=-500", 0..100),
        ] {
            assert_eq!(asked(&[("range", range)]), Wanted::Part(part), "{range}");
        }
        for range in [
            "bytes=100-",
            "bytes=9-8",
            "bytes=-0",
            "bytes=",
            "bytes=-",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(asked(&[("range", range)]), Wanted::NoSuchPart, "{range}");
        }
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(part(range, 0), None, "{range}");
        }
    }

    #[test]
    fn a_validator_avoids_sending_what_the_client_has() {
        for (name, value, wanted) in [
            ("if-none-match", ETAG, Wanted::NotModified),
            ("if-none-match", "W/\"abc\"", Wanted::NotModified),
            ("if-none-match", "\"a,b\", \"abc\"", Wanted::NotModified),
            ("if-none-match", "*", Wanted::NotModified),
            ("if-none-match", "\"other\"", Wanted::Whole),
            ("if-none-match", "abc", Wanted::Whole),
            ("if-match", ETAG, Wanted::Whole),
            ("if-match", "*", Wanted::Whole),
            ("if-match", "W/\"abc\"", Wanted::Unmet),
            ("if-match", "\"other\"", Wanted::Unmet),
            ("if-modified-since", DATE, Wanted::NotModified),
            ("if-modified-since", AFTER, Wanted::NotModified),
            ("if-modified-since", BEFORE, Wanted::Whole),
            ("if-modified-since", "yesterday", Wanted::Whole),
            ("if-unmodified-since", DATE, Wanted::Whole),
            ("if-unmodified-since", BEFORE, Wanted::Unmet),
        ] {
            assert_eq!(asked(&[(name, value)]), wanted, "{name}: {value}");
        }
        // A tag takes precedence over a date.
        let both = [("if-none-match", "\"other\""), ("if-modified-since", AFTER)];
        assert_eq!(asked(&both), Wanted::Whole);
        let both = [("if-match", ETAG), ("if-unmodified-since", BEFORE)];
        assert_eq!(asked(&both), Wanted::Whole);
    }

    #[test]
    fn a_part_of_another_version_is_not_served() {
        for (version, wanted) in [
            (ETAG, Wanted::Part(10..100)),
            (DATE, Wanted::Part(10..100)),
            ("\"other\"", Wanted::Whole),
            ("W/\"abc\"", Wanted::Whole),
            (BEFORE, Wanted::Whole),
            (AFTER, Wanted::Whole),
            ("nonsense", Wanted::Whole),
        ] {
            let headers = [("range", "bytes=10-"), ("if-range", version)];
            assert_eq!(asked(&headers), wanted, "{version}");
        }
        assert_eq!(asked(&[("if-range", ETAG)]), Wanted::Whole);
    }
}
