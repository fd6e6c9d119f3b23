//! Questions to an Esplora API, or to the relay itself, besides those that ldk-node asks.

/// How long an answer may take: somebody waits for it.
const TIMEOUT_SECS: u64 = 10;

/// A client of the API with this base URL, which asks once.
pub(in crate::chain) fn client(
    base: &str,
) -> Result<esplora_client::AsyncClient, esplora_client::Error> {
    esplora_client::Builder::new(base)
        .timeout(TIMEOUT_SECS)
        .max_retries(0)
        .build_async()
}

/// The fee rate for a confirmation within so many blocks, in sat per virtual byte; `None` if the API does not tell it.
pub(crate) async fn estimated_fee_rate(base: &str, target_blocks: u16) -> Option<u64> {
    let estimates = client(base).ok()?.get_fee_estimates().await.ok()?;
    let rate = esplora_client::convert_fee_rate(usize::from(target_blocks), estimates)?;
    // Rounded up: below a rate it would take longer.
    Some(rate.ceil().max(1.0) as u64)
}
