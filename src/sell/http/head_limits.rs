//! How much of a request head the public listener reads.

/// The most bytes of header names and values in one request. This is as much as other servers allow
/// for one or two headers, and leaves room for the largest token that is read.
pub(super) const HEADER_BYTES_MAX: usize = 16 * 1024;

/// The most header lines in one request.
pub(super) const HEADERS_MAX: usize = 100;
