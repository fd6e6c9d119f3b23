//! How the harness's own nodes are put together.

use std::sync::Arc;

use anyhow::{Context, Result};
use ldk_node::Node;
use ldk_node::config::{Config, EsploraSyncConfig};
use ldk_node::liquidity::LSPS2ServiceConfig;
use ldk_node::logger::{LogLevel, LogRecord, LogWriter};

use super::PayerOptions;

/// Passes the node's warnings on to `tracing`; what is below is dropped, for LDK writes a great deal of it.
struct Log;

impl LogWriter for Log {
    fn log(&self, record: LogRecord<'_>) {
        let module = record.module_path;
        match record.level {
            LogLevel::Error => tracing::error!(target: "payer", module, "{}", record.args),
            LogLevel::Warn => tracing::warn!(target: "payer", module, "{}", record.args),
            LogLevel::Info | LogLevel::Debug | LogLevel::Trace | LogLevel::Gossip => {}
        }
    }
}

/// What a node does besides paying.
pub(super) enum Kind {
    /// It pays and does nothing else.
    Payer,
    /// It opens channels out of payments by these terms.
    Provider(LSPS2ServiceConfig),
    /// It has a name, and so may announce its channels.
    Announced,
}

/// A node that pays.
pub(super) fn build(
    options: &PayerOptions,
    kind: Kind,
    runtime: tokio::runtime::Handle,
) -> Result<Node> {
    let storage = options
        .dir
        .to_str()
        .context("the payer's folder is no UTF-8")?;
    let mut builder = ldk_node::Builder::from_config(Config {
        network: bitcoin::Network::Regtest,
        storage_dir_path: storage.to_owned(),
        listening_addresses: options.listen.map(|address| vec![address.into()]),
        ..Config::default()
    });
    builder
        .set_runtime(runtime)
        .set_custom_logger(Arc::new(Log))
        // Only `Payer::sync` asks the chain source: what a test sees depends on nothing but the test.
        .set_chain_source_esplora(
            options.esplora.clone(),
            Some(EsploraSyncConfig {
                background_sync_config: None,
            }),
        );
    match kind {
        Kind::Payer => {}
        Kind::Provider(service) => {
            builder.set_liquidity_provider_lsps2(service);
        }
        Kind::Announced => {
            builder
                .set_node_alias("announced".to_owned())
                .context("ldk-node refused a name")?;
        }
    }
    builder.build().context("ldk-node refused its settings")
}
