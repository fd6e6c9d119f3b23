//! The deposit address: one, kept in a file. Every further one is asked for at the chain source with each sync.

use std::path::Path;
use std::str::FromStr as _;

use bitcoin::Network;
use bitcoin::address::{Address, NetworkUnchecked};

/// The address to send on-chain money to; drawn from the wallet once. `None` if the wallet gives none.
pub(super) fn deposit(folder: &Path, network: Network, node: &ldk_node::Node) -> Option<String> {
    let path = folder.join("deposit.address");
    let kept = std::fs::read_to_string(&path).ok();
    let kept = kept.and_then(|text| Address::<NetworkUnchecked>::from_str(text.trim()).ok());
    if let Some(address) = kept.and_then(|address| address.require_network(network).ok()) {
        return Some(address.to_string());
    }
    let address = node.onchain_payment().new_address().ok()?.to_string();
    // By a rename: a torn file would mean another address.
    let new = path.with_extension("new");
    let kept =
        std::fs::write(&new, format!("{address}\n")).and_then(|()| std::fs::rename(&new, &path));
    if let Err(error) = kept {
        tracing::warn!(
            "Failed to keep the deposit address in {}: {error}",
            path.display()
        );
    }
    Some(address)
}
