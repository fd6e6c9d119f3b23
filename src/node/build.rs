//! Builds ldk-node from the settings. Nothing runs yet.

use std::net::SocketAddr;
use std::sync::Arc;

use ldk_node::config::AnchorChannelsConfig;
use ldk_node::lightning::ln::msgs::SocketAddress;

use crate::base::clock::Clock;
use crate::base::sparing::{PERIOD, Sparing};
use crate::channel_state::vss::Pass;
use crate::channel_state::vss::Vss;
use crate::channel_state::vss::trouble::{Trouble, shown};
use crate::channel_state::{ChannelStateError, database, kv_store, vss};

use super::chain::told::Told;
use super::config::{Config, Gossip};
use super::core::Purpose;
use super::error::NodeError;
use super::liquidity::builder;
use super::writing::Writing;
use super::{log, made};

/// The on-chain reserve that a node in recovery demands for each channel that a peer opens: all
/// bitcoin that will ever exist. ldk-node has no other way to refuse such channels.
const REFUSE_CHANNELS_SATS: u64 = 21_000_000 * 100_000_000;

/// The reasons why the node was not built.
pub(super) enum Unbuilt {
    /// The server that keeps the node's state gave no valid answer. A retry may succeed.
    Away(Trouble),
    /// A retry would fail as well.
    Never(NodeError),
}

impl From<NodeError> for Unbuilt {
    fn from(error: NodeError) -> Self {
        Self::Never(error)
    }
}

impl From<ChannelStateError> for Unbuilt {
    fn from(error: ChannelStateError) -> Self {
        Self::Never(error.into())
    }
}

pub(super) fn build(
    config: &Config,
    purpose: Purpose,
    told: Told,
    mnemonic: bip39::Mnemonic,
    onward: Option<SocketAddr>,
    runtime: tokio::runtime::Handle,
    writing: Writing,
) -> Result<ldk_node::Node, Unbuilt> {
    let mut builder = ldk_node::Builder::from_config(ldk_node::config::Config {
        storage_dir_path: config.folder.to_string_lossy().into_owned(),
        network: config.network,
        anchor_channels_config: Some(match purpose {
            Purpose::Sell => builder::anchors(config),
            Purpose::Recover => AnchorChannelsConfig {
                per_channel_reserve_sats: REFUSE_CHANNELS_SATS,
                ..AnchorChannelsConfig::default()
            },
        }),
        ..ldk_node::config::Config::default()
    });
    builder.set_runtime(runtime);
    builder.set_entropy_bip39_mnemonic(mnemonic, None);
    told.set(&mut builder);
    builder::configure(&mut builder, config);
    let said = Arc::new(log::Said::default());
    writing.claims.restart();
    builder.set_custom_logger(Arc::new(log::ToTracing {
        wants_gossip: config.gossip.now(&config.folder) != Gossip::None,
        lost: writing.lost,
        said: Arc::clone(&said),
        claims: writing.claims,
        headers: writing.pass.as_ref().map(|pass| Arc::clone(&pass.headers)),
        sparing: Sparing::with(&Clock::system(), log::LINES_MAX, PERIOD),
    }));
    if !config.alias.is_empty() {
        builder
            .set_node_alias(config.alias.clone())
            .map_err(NodeError::Build)?;
    }
    if let Some(onward) = onward {
        let announced = config.listen.iter().copied().map(SocketAddress::from);
        builder
            .set_listening_addresses(vec![SocketAddress::from(onward)])
            .and_then(|builder| builder.set_announcement_addresses(announced.collect()))
            .map_err(NodeError::Build)?;
    }
    let built = match &config.vss {
        None => builder.build_with_store(Arc::new(kv_store::Rows::open(
            &config.folder,
            writing.unwritable,
        )?)),
        Some(Vss { url, store_id, .. }) => match writing.pass.clone() {
            Some(pass) => builder.build_with_vss_store_and_header_provider(
                url.clone(),
                store_id.clone(),
                pass,
            ),
            None => return Err(ChannelStateError::Taken.into()),
        },
    };
    let node = built.map_err(|error| match &writing.pass {
        None => Unbuilt::Never(failed(error)),
        Some(pass) => failed_on_server(error, &said.lines(), pass),
    })?;
    match &config.vss {
        None => database::note_made(&config.folder)?,
        Some(vss) => vss::note(vss, &config.folder)?,
    }
    made::note(&config.folder)?;
    Ok(node)
}

fn failed(error: ldk_node::BuildError) -> NodeError {
    use ldk_node::BuildError as E;
    if error == E::NetworkMismatch {
        NodeError::OtherNetwork(error)
    } else if error == E::WalletSetupFailed {
        NodeError::Wallet(error)
    } else {
        NodeError::Build(error)
    }
}

/// Finds the cause of a failed build in ldk-node's log, because the error says only that a read or
/// write failed. The cause is either the server or the data that it keeps.
fn failed_on_server(error: ldk_node::BuildError, said: &[String], pass: &Pass) -> Unbuilt {
    use ldk_node::BuildError as E;
    let is_stores = matches!(
        error,
        E::KVStoreSetupFailed
            | E::ReadFailed
            | E::WriteFailed
            | E::WalletSetupFailed
            | E::InvalidChannelMonitor
    );
    if !is_stores {
        return Unbuilt::Never(failed(error));
    }
    let in_line = |line: &String| Trouble::in_line(line, &pass.headers);
    if let Some(trouble) = said.iter().find_map(in_line) {
        return Unbuilt::Away(trouble);
    }
    let why = said.first().map(|line| log::harmless(line));
    let why = shown(&why.unwrap_or_default(), &pass.headers);
    Unbuilt::Never(NodeError::StateUnreadable { why, source: error })
}
