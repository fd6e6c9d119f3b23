//! Whether the settings can sell what an application guards.

use crate::config::Config;
use crate::sell::layer::can_be_priced;
use crate::sell::route::Offer;

use super::error::AppError;

/// Checks that these settings can sell the guarded offers.
pub(super) fn fits(guarded: &[Offer], config: &Config) -> Result<(), AppError> {
    // These settings would silently have no effect in an embedding program.
    let unserved = [
        ("route", config.routes.iter().next().is_some()),
        ("http.tls", config.http.tls.is_some()),
        ("http.proxy_protocol", config.http.proxy_protocol),
    ];
    if let Some((key, _)) = unserved.iter().find(|(_, is_there)| *is_there) {
        return Err(AppError::OnlyRun(key));
    }
    for offer in guarded {
        can_be_priced(
            offer,
            |currency| config.rates.iter().any(|rate| rate.currency == currency),
            |name| config.hooks.iter().any(|hook| &*hook.name == name),
        )?;
    }
    Ok(())
}
