//! A request's way, in the order in which it is walked.
//!
//! [`http`] takes it in and finds its [`route`]; a price that must be asked for comes from [`quote`]; the [`gate`] decides; the
//! [`resource`] is served. [`layer`] is the same gate in somebody else's program.

pub mod gate;
pub mod http;
pub mod layer;
pub mod quote;
pub mod resource;
pub mod route;
