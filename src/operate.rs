//! The operator's tools: the [`api`], which has access tokens of its own, and every [`backup`].

pub mod api;
pub mod backup;
