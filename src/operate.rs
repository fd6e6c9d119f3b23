//! What the operator has: the [`api`], behind tokens of its own, and every [`backup`].

pub mod api;
pub mod backup;
