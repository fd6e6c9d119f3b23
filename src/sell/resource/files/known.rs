//! A checked file, with the headers for every answer about it.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, LAST_MODIFIED,
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::preconditions::{Version, Wanted};
use super::stamp::Stamp;

/// The last second that a date header can express: the end of the year 9999.
const DATE_MAX_SECS: u64 = 253_402_300_799;

/// The digest bytes in an entity tag: a collision is unlikely below 2^48 versions.
const ETAG_BYTES: usize = 12;

/// The type of a file without a known extension.
const BYTES: &str = "application/octet-stream";

/// One version of a file.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The identity of the version.
    pub(super) stamp: Stamp,
    pub(super) content_type: HeaderValue,
    pub(super) etag: HeaderValue,
    /// The modification date; `None` if a header cannot express it.
    pub(super) last_modified: Option<HeaderValue>,
    /// The whole content, if it is kept.
    pub(super) content: Option<Bytes>,
    /// The time when this version was first seen.
    pub(super) first_seen: Instant,
    /// The time of the last full check.
    pub(super) looked_at: Instant,
}

impl Known {
    /// Builds the entry for a file that was just found at this path.
    pub(super) fn new(file: &Path, stamp: Stamp) -> Self {
        let now = Instant::now();
        Self {
            content_type: content_type(file),
            etag: etag(&stamp),
            last_modified: last_modified(&stamp),
            stamp,
            content: None,
            first_seen: now,
            looked_at: now,
        }
    }

    /// Returns the version for preconditions and ranges.
    pub(super) fn version(&self) -> Version<'_> {
        Version {
            etag: self.etag.as_bytes(),
            modified_secs: self.stamp.modified.0,
            size: self.stamp.size,
        }
    }

    /// Builds the headers of this answer.
    pub(super) fn headers(&self, wanted: &Wanted) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        let size = self.stamp.size;
        match wanted {
            Wanted::Unmet => return headers,
            Wanted::NoSuchPart => {
                headers.insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
                headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
                return headers;
            }
            Wanted::NotModified => {}
            Wanted::Whole => {
                headers.insert(CONTENT_LENGTH, size.into());
            }
            Wanted::Part(part) => {
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                headers.insert(CONTENT_RANGE, header(&range));
                headers.insert(CONTENT_LENGTH, (part.end - part.start).into());
            }
        }
        headers.insert(ETAG, self.etag.clone());
        if let Some(last_modified) = &self.last_modified {
            headers.insert(LAST_MODIFIED, last_modified.clone());
        }
        if *wanted != Wanted::NotModified {
            headers.insert(CONTENT_TYPE, self.content_type.clone());
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        headers
    }
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("letters and digits are a header's value")
}

/// Returns the type by the file's extension. Text is declared as UTF-8, because browsers otherwise
/// guess another encoding.
fn content_type(file: &Path) -> HeaderValue {
    let kind = mime_guess::from_path(file).first_raw().unwrap_or(BYTES);
    if kind.starts_with("text/") {
        header(&format!("{kind}; charset=utf-8"))
    } else {
        HeaderValue::from_static(kind)
    }
}

/// Builds a strong entity tag. It is a hash, so it does not reveal the inode.
fn etag(stamp: &Stamp) -> HeaderValue {
    let (secs, nanos) = stamp.modified;
    let version = format!("{} {} {secs} {nanos}", stamp.inode(), stamp.size);
    let digest = Sha256::digest(version);
    header(&format!("\"{}\"", hex::encode(&digest[..ETAG_BYTES])))
}

fn last_modified(stamp: &Stamp) -> Option<HeaderValue> {
    let secs = u64::try_from(stamp.modified.0).ok();
    let secs = secs.filter(|secs| *secs <= DATE_MAX_SECS)?;
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs));
    Some(header(&date))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_date_beyond_what_headers_can_express_is_omitted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.txt");
        let file = File::create(&path).unwrap();
        let day = Duration::from_secs(86_400);
        for (time, is_named) in [
            (UNIX_EPOCH - day, false),
            (UNIX_EPOCH, true),
            (UNIX_EPOCH + Duration::from_secs(1_800_000_000), true),
        ] {
            file.set_modified(time).unwrap();
            let known = Known::new(&path, Stamp::of(&file).unwrap());
            let headers = known.headers(&Wanted::Whole);
            assert_eq!(headers.contains_key(LAST_MODIFIED), is_named, "{time:?}");
        }
        let mut stamp = Stamp::of(&file).unwrap();
        for (secs, is_named) in [
            (i64::MIN, false),
            (DATE_MAX_SECS.cast_signed(), true),
            (DATE_MAX_SECS.cast_signed() + 1, false),
            (i64::MAX, false),
        ] {
            stamp.modified = (secs, 0);
            assert_eq!(last_modified(&stamp).is_some(), is_named, "{secs}");
        }
    }

    #[test]
    fn text_is_utf_8_and_unknown_types_are_bytes() {
        for (name, kind) in [
            ("page.html", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.png", "image/png"),
            ("README", BYTES),
            ("a.unknown", BYTES),
        ] {
            assert_eq!(content_type(Path::new(name)), kind, "{name}");
        }
    }
}
