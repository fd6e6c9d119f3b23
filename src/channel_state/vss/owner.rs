//! Whose state a store holds. ldk-node keeps everything under names that it derives from the seed: with other words it finds nothing,
//! and would begin a node beside the one that is there.

use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use vss_client_ng::error::VssError;
use vss_client_ng::types::{GetObjectRequest, ListKeyVersionsRequest};
use vss_client_ng::util::key_obfuscator::KeyObfuscator;

use super::client::{Client, KEY};

/// The name of what ldk-node writes into a store before anything else.
const FIRST: &str = "vss_schema_version";

/// How the names begin that ldk-node gave the wallet before it obfuscated them.
const WALLET: &str = "bdk_wallet#";

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// There is none.
    Nobodys,
    /// That of a node with this seed.
    Ours,
    /// Something else.
    Others,
}

/// Asks whose state is there.
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
    // Whether a wallet of old is ours ldk-node sees itself: its names are nobody's.
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
    // The first page is enough: only one object of all is ours.
    let all = client.list_key_versions(&lists(None)).await?;
    let is_any = all.key_versions.iter().any(|object| object.key != KEY);
    Ok(if is_any {
        Whose::Others
    } else {
        Whose::Nobodys
    })
}

/// What ldk-node 0.7.1 keeps [`FIRST`] under, as it derives that from the seed of the store. Were it otherwise, no node would ever start
/// a second time.
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
    // A name in no namespace.
    let (namespace, name) = (obfuscator.obfuscate("#"), obfuscator.obfuscate(FIRST));
    format!("{namespace}#{name}")
}
