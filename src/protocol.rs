//! What goes over the wire, bytes to bytes: no clock, no input or output.

pub mod invoice;
pub mod l402;
