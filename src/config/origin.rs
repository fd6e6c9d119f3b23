//! Where a value of the settings comes from.

/// The `config` crate's name for the environment.
pub(super) const ENVIRONMENT: &str = "the environment";
