//! Proves that a closing is in the chain, because a monitor must not be loaded on one server's
//! word.

use bitcoin::{MerkleBlock, Network, Txid};
use esplora_client::AsyncClient;

/// The least difficulty of an acceptable main-network block. In all of 2025 the difficulty was more
/// than ten times as high. Faking one such block costs more than the channels hold.
const DIFFICULTY_MIN: f64 = 1e13;

/// The height of the block that contains a transaction, if that is proven.
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

/// Whether this proof shows that the transaction is in a block, and that the block has enough work.
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
        // The proof is for another transaction.
        assert!(!is_proof(&proof, &Txid::all_zeros(), Network::Signet));
        // The block was changed, so its proof of work is not valid any more.
        let mut changed = proof.clone();
        changed.header.nonce += 1;
        assert!(!is_proof(&changed, &txid, Network::Signet));
        // On the main network, work that anyone can do is not a proof.
        assert!(!is_proof(&proof, &txid, Network::Bitcoin));
        let mut easy = proof;
        easy.header.bits = CompactTarget::from_consensus(0x207f_ffff);
        assert!(!is_proof(&easy, &txid, Network::Bitcoin));
    }
}
