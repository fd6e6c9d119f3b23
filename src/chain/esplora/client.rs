//! Requests to an Esplora API or to the relay itself, besides those of ldk-node.

/// The limit for an answer: a person waits for it.
const TIMEOUT_SECS: u64 = 10;

/// Makes a client for the API at this base URL. The client does not retry.
pub(in crate::chain) fn client(
    base: &str,
) -> Result<esplora_client::AsyncClient, esplora_client::Error> {
    esplora_client::Builder::new(base)
        .timeout(TIMEOUT_SECS)
        .max_retries(0)
        .build_async()
}

/// Returns the fee rate for confirmation within this many blocks, in sat per virtual byte; `None`
/// if the API does not say.
pub(crate) async fn estimated_fee_rate(base: &str, target_blocks: u16) -> Option<u64> {
    let estimates = client(base).ok()?.get_fee_estimates().await.ok()?;
    let rate = esplora_client::convert_fee_rate(usize::from(target_blocks), estimates)?;
    // Rounded up, because a lower rate would take longer.
    Some(rate.ceil().max(1.0) as u64)
}
