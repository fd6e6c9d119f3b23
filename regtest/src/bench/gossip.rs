//! What a map of the network costs: memory of the merchant without one, and with one as large as mainnet's.
//!
//! The map is made up, in LDK's format of snapshots: mainnet's is not to be had on loopback. It has as many nodes and channels,
//! each of them updated from both ends; addresses and names of nodes are not part of it, as they are not of the real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use bitcoin::Network as Chain;
use bitcoin::constants::ChainHash;
use http::{Method, StatusCode};
use regtest::network::Network;
use regtest::port;
use regtest::server::Server;
use serde::Deserialize;

use super::goods::Goods;
use super::process::{pid, rss_at_rest_mb};
use super::{Effort, Notes};

/// Nodes and channels of mainnet's graph, about.
const NODES: u32 = 16_000;
const CHANNELS: u32 = 45_000;

/// Memory at rest, MB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// With no map.
    pub(super) off_mb: f64,
    /// With one that was fetched before the last start.
    pub(super) on_mb: f64,
}

/// What the merchant says of its map.
#[derive(Debug, Deserialize)]
struct Map {
    nodes: u32,
    channels: u32,
}

/// Measures both, with the channels that there are. Last: a map stays.
pub(super) async fn memory(
    network: &mut Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<Memory> {
    notes.progress("memory without a map of the network");
    again(network).await?;
    let off_mb = rss_at_rest_mb(pid(network)?, effort.rest).await?;
    notes.progress(&format!(
        "memory with one of {NODES} nodes and {CHANNELS} channels"
    ));
    let whole = Bytes::from(snapshot(NODES, CHANNELS)?);
    notes.remark(format!(
        "gossip: a snapshot of {:.1} MB, made up, with {NODES} nodes and {CHANNELS} channels",
        super::megabytes(whole.len() as u64)
    ));
    // Later on there is nothing new.
    let (nothing, is_given) = (
        Bytes::from(snapshot(0, 0)?),
        Arc::new(AtomicBool::new(false)),
    );
    let app = Router::new().fallback(move || {
        let is_given = is_given.swap(true, Ordering::Relaxed);
        std::future::ready(if is_given { &nothing } else { &whole }.clone())
    });
    let server = Server::start("snapshots", port::free()?, app)?;
    let presets = format!(
        "[home]\ntype = \"regtest\"\nesplora = [\"{}\"]\nrapid_gossip = \"http://{}\"\n",
        network.esplora.url(),
        server.address()
    );
    let file = goods.write("networks.toml", &presets)?;
    let file = file.to_str().context("the folder has no plain name")?;
    network.merchant.settings_mut().extra =
        format!("node.network = \"home\"\nnode.presets = \"{file}\"\nnode.gossip = \"rapid\"\n");
    let fetched_mb = with_a_map(network, effort).await?;
    // It stays: the next process only reads it.
    let on_mb = with_a_map(network, effort).await?;
    notes.remark(format!(
        "gossip: memory {off_mb:.1} MB without a map, {fetched_mb:.1} in the process that has fetched one, {on_mb:.1} after a restart"
    ));
    network.merchant.settings_mut().extra.clear();
    Ok(Memory { off_mb, on_mb })
}

/// Starts the merchant again; the memory at rest of one that has its map, MB.
async fn with_a_map(network: &mut Network, effort: &Effort) -> Result<f64> {
    again(network).await?;
    // It answers when the map is there.
    let called = network.merchant.admin().call(Method::POST, "/gossip/fetch");
    let (status, body) = called.await?;
    let map: Option<Map> = serde_json::from_str(&body).ok();
    let Some(map) = map.filter(|_| status == StatusCode::OK) else {
        bail!("the merchant has no map: {status} {body}");
    };
    if (map.nodes, map.channels) != (NODES, CHANNELS) {
        bail!("the merchant's map is another one: {map:?}");
    }
    rss_at_rest_mb(pid(network)?, effort.rest).await
}

/// Starts the merchant again, up to its channels.
async fn again(network: &mut Network) -> Result<()> {
    network.merchant.restart().await?;
    network.merchant.wait_up().await?;
    if network.ensure_channel().await? > 0 {
        bail!("the channels did not survive the restart");
    }
    Ok(())
}

/// A snapshot (LDK's rapid gossip sync, version 1).
fn snapshot(nodes: u32, channels: u32) -> Result<Vec<u8>> {
    let now = UNIX_EPOCH.elapsed().context("before 1970")?.as_secs();
    let mut bytes = b"LDK\x01".to_vec();
    bytes.extend(ChainHash::using_genesis_block_const(Chain::Regtest).to_bytes());
    bytes.extend(u32::try_from(now)?.to_be_bytes());
    bytes.extend(nodes.to_be_bytes());
    for number in 0..nodes {
        let mut id = [0; 33];
        id[0] = 2;
        // Spread, as keys are.
        let spread = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        id[1..9].copy_from_slice(&spread.to_be_bytes());
        id[29..].copy_from_slice(&number.to_be_bytes());
        bytes.extend(id);
    }
    bytes.extend(channels.to_be_bytes());
    for number in 0..channels {
        // No features; further on by one block's worth of ids; two different nodes.
        bytes.extend([0, 0]);
        big_size(&mut bytes, 1 << 24);
        big_size(&mut bytes, number % nodes);
        big_size(&mut bytes, (number * 7 + 1) % nodes);
    }
    bytes.extend((2 * channels).to_be_bytes());
    // What most of them have: blocks, smallest amount, fees, largest amount.
    bytes.extend(40_u16.to_be_bytes());
    bytes.extend(1_000_u64.to_be_bytes());
    bytes.extend(1_000_u32.to_be_bytes());
    bytes.extend(100_u32.to_be_bytes());
    bytes.extend(1_000_000_000_u64.to_be_bytes());
    for _ in 0..channels {
        big_size(&mut bytes, 1 << 24);
        // From the first node to the second, and back.
        bytes.push(0);
        bytes.extend([0, 1]);
    }
    Ok(bytes)
}

/// An integer as BOLT 1 writes one.
fn big_size(bytes: &mut Vec<u8>, number: u32) {
    match (u8::try_from(number), u16::try_from(number)) {
        (Ok(small), _) if small < 0xfd => bytes.push(small),
        (_, Ok(middle)) => {
            bytes.push(0xfd);
            bytes.extend(middle.to_be_bytes());
        }
        (_, Err(_)) => {
            bytes.push(0xfe);
            bytes.extend(number.to_be_bytes());
        }
    }
}
