//! The path of a request through the program.
//!
//! [`http`] accepts the request and finds its [`route`]. [`quote`] supplies a price that depends on
//! a hook or an exchange rate. The [`gate`] decides, and the [`resource`] is served. [`layer`] puts
//! the same gate into another program.

pub mod gate;
pub mod http;
pub mod layer;
pub mod quote;
pub mod resource;
pub mod route;
