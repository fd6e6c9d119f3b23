//! The wire formats, from bytes to bytes, without a clock, input or output.

pub mod invoice;
pub mod l402;
