//! Checks to which node the state in a store belongs. ldk-node stores everything under names that
//! it derives from the seed. With another seed it would find nothing, and would create a second
//! node in the same store.

use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use vss_client_ng::error::VssError;
use vss_client_ng::types::{GetObjectRequest, ListKeyVersionsRequest};
use vss_client_ng::util::key_obfuscator::KeyObfuscator;

use super::client::{Client, KEY};

/// The name of the object that ldk-node first writes to a store.
const FIRST: &str = "vss_schema_version";

/// The prefix of the names that ldk-node gave the wallet's objects before it obfuscated them.
const WALLET: &str = "bdk_wallet#";

/// The owner of a store's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The store has no state.
    Nobodys,
    /// A node with this seed.
    Ours,
    /// Another node, or another program.
    Others,
}

/// Asks the server for the owner of the store's state.
pub(super) async fn whose(
    client: &Client,
    store_id: &str,
    seed: &[u8; 32],
) -> Result<Whose, VssError> {
    let first = GetObjectRequest {
        store_id: store_id.to_owned(),
        key: first_key(seed),
    };
    match client.get_object(&first).await {
        Ok(_) => return Ok(Whose::Ours),
        Err(VssError::NoSuchKeyError(_)) => {}
        Err(error) => return Err(error),
    }
    // These old names do not depend on the seed, so ldk-node itself checks whether such a wallet is
    // ours.
    let lists = |prefix: Option<&str>| ListKeyVersionsRequest {
        store_id: store_id.to_owned(),
        key_prefix: prefix.map(ToOwned::to_owned),
        page_size: None,
        page_token: None,
    };
    let wallet = client.list_key_versions(&lists(Some(WALLET))).await?;
    if !wallet.key_versions.is_empty() {
        return Ok(Whose::Ours);
    }
    // The first page is enough, because the lease is the only object of ours.
    let all = client.list_key_versions(&lists(None)).await?;
    let is_any = all.key_versions.iter().any(|object| object.key != KEY);
    Ok(if is_any {
        Whose::Others
    } else {
        Whose::Nobodys
    })
}

/// The key under which ldk-node 0.7.1 stores [`FIRST`], derived from the store's seed in the same
/// way. With a wrong key, no node would start a second time.
fn first_key(seed: &[u8; 32]) -> String {
    let derive = |from: &[u8], salt: &[u8]| -> [u8; 32] {
        let mut engine = HmacEngine::<sha256::Hash>::new(salt);
        engine.input(from);
        Hmac::from_engine(engine).to_byte_array()
    };
    let root = derive(seed, b"pseudo_random_key");
    let encryption = derive(&root, b"data_encryption_key");
    let obfuscation = derive(&root, &[&encryption[..], b"obfuscation_key"].concat());
    let obfuscator = KeyObfuscator::new(obfuscation);
    // The name has no namespace.
    let (namespace, name) = (obfuscator.obfuscate("#"), obfuscator.obfuscate(FIRST));
    format!("{namespace}#{name}")
}
