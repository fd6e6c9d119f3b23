//! The operator's tools: the admin [`api`] with its own access tokens, and every [`backup`].

pub mod api;
pub mod backup;
