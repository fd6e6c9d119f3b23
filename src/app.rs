//! The composition root: builds everything long-lived, from the store up, and stops it in reverse.

mod backup_source;
mod broken;
mod build;
mod bundle;
mod certificates;
mod embedded;
mod error;
mod folder;
mod guarded;
mod inbound;
mod missing_files;
mod reload;
mod running;

use std::path::PathBuf;

use crate::config::Config;
use crate::operate::api::{Reload, Reloads};
use crate::sell::http::Stop;

use build::{Built, public};
use running::Front;

pub use embedded::Tollhouse;
pub use error::AppError;

pub(crate) use backup_source::source;
pub(crate) use folder::make as make_data_folder;

/// Runs the program until `stop` is cancelled, or until a fault ends it.
///
/// `file` is the settings file that `config` was read from. Each reload reads it again.
pub async fn run(
    config: Config,
    file: PathBuf,
    stop: Stop,
    reload: (Reload, Reloads),
) -> Result<(), AppError> {
    let config = reload::warn(config).await;
    let built = Built::build(config, file, reload, None).await?;
    let config = &built.reloading.started_with;
    let public = public(config, &built.reloading.shop, &built.reloading.gate).await?;
    let (selling, operating) = (config.http.url(), config.admin_url());
    tracing::info!("Selling on {selling}, the operator's listener is {operating}");
    built.run(Front::Listener(Box::new(public)), stop).await
}
