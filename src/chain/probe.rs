//! One check of each server of a chain source: its newest block.

use std::path::Path;

use bitcoin::Network;

use crate::base::error_chain;

use super::esplora::{self, Block, client};
use super::source::ChainSource;
use super::{bitcoind, electrum};

/// The result of checking one server of the chain source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub server: String,
    /// The height of its newest block and the block's time (Unix seconds), or why it gave no
    /// answer.
    pub newest: Result<(u32, u64), String>,
}

/// Checks every server of a chain source, without the relay. Reports each server's newest block,
/// and whether the server is on the chain that the node in this folder has seen.
pub async fn seen(source: &ChainSource, network: Network, folder: &Path) -> Vec<Seen> {
    let urls = match source {
        ChainSource::Esplora { urls, .. } => urls,
        ChainSource::Electrum(url) => {
            return vec![Seen {
                server: source.to_string(),
                newest: electrum::newest(url, network).await,
            }];
        }
        ChainSource::Bitcoind(bitcoind) => {
            return vec![Seen {
                server: source.to_string(),
                newest: bitcoind::newest(bitcoind, network).await,
            }];
        }
    };
    let ours = esplora::mark(&folder.join(esplora::SAVED), network).await;
    let mut all = Vec::with_capacity(urls.len());
    for url in urls {
        all.push(Seen {
            server: url.clone(),
            newest: newest(url, ours).await,
        });
    }
    all
}

async fn newest(base: &str, ours: Block) -> Result<(u32, u64), String> {
    let asked = async {
        let client = client(base)?;
        let theirs = client.get_block_hash(ours.height).await?;
        let hash = client.get_tip_hash().await?;
        let header = client.get_header_by_hash(&hash).await?;
        Ok((theirs, client.get_height().await?, u64::from(header.time)))
    };
    let asked = asked.await.map_err(|error| {
        if let esplora_client::Error::Reqwest(error) = error {
            return error_chain::chain(&error.without_url());
        }
        error.to_string()
    });
    let (theirs, height, secs) = asked?;
    ours.is_this(theirs).map_err(|other| other.to_string())?;
    Ok((height, secs))
}
