//! Whether a closing is in the chain: the fence does not come down on one server's word.

use bitcoin::{MerkleBlock, Network, Txid};
use esplora_client::AsyncClient;

/// The difficulty that a block of the main network has at least: it was above ten times as much in all of 2025, and to make up one
/// such block costs more than there is in channels.
const DIFFICULTY_MIN: f64 = 1e13;

/// The height of the block that a transaction is in, if that is proven.
pub(super) async fn height(
    client: &AsyncClient,
    txid: &Txid,
    network: Network,
) -> Result<Option<u32>, esplora_client::Error> {
    let Some(proof) = client.get_merkle_block(txid).await? else {
        return Ok(None);
    };
    if !is_proof(&proof, txid, network) {
        return Ok(None);
    }
    let status = client.get_block_status(&proof.header.block_hash()).await?;
    Ok(status.height.filter(|_| status.in_best_chain))
}

/// Whether this says that a transaction is in a block, and somebody has done the work for that block.
fn is_proof(proof: &MerkleBlock, txid: &Txid, network: Network) -> bool {
    let (mut matches, mut indexes) = (Vec::new(), Vec::new());
    let is_in = proof.extract_matches(&mut matches, &mut indexes).is_ok() && matches == [*txid];
    let header = &proof.header;
    let is_dear = network != Network::Bitcoin || header.difficulty_float() >= DIFFICULTY_MIN;
    is_in && is_dear && header.validate_pow(header.target()).is_ok()
}

#[cfg(test)]
mod tests {
    use bitcoin::CompactTarget;
    use bitcoin::constants::genesis_block;
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[test]
    fn only_a_block_with_work_that_holds_the_transaction_is_a_proof() {
        let block = genesis_block(Network::Signet);
        let txid = block.txdata[0].compute_txid();
        let proof = MerkleBlock::from_block_with_predicate(&block, |_| true);
        assert!(is_proof(&proof, &txid, Network::Signet));
        // Another transaction.
        assert!(!is_proof(&proof, &Txid::all_zeros(), Network::Signet));
        // A block that was changed, whose work is none any more.
        let mut changed = proof.clone();
        changed.header.nonce += 1;
        assert!(!is_proof(&changed, &txid, Network::Signet));
        // On the main network work that anybody can do is none either.
        assert!(!is_proof(&proof, &txid, Network::Bitcoin));
        let mut easy = proof;
        easy.header.bits = CompactTarget::from_consensus(0x207f_ffff);
        assert!(!is_proof(&easy, &txid, Network::Bitcoin));
    }
}
