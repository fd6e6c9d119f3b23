//! A look at the chain source from outside of ldk-node, which says only that it failed and not why.

use crate::causes;

/// How long the look may take: ldk-node itself gave up after five seconds.
const TIMEOUT_SECS: u64 = 5;

/// The fee rate for a confirmation within so many blocks, in sat per virtual byte; `None` if nobody knows.
pub(super) async fn fee_rate(base: &str, target_blocks: u16) -> Option<u64> {
    let client = esplora_client::Builder::new(base)
        .timeout(TIMEOUT_SECS)
        .max_retries(0)
        .build_async()
        .ok()?;
    let estimates = client.get_fee_estimates().await.ok()?;
    let rate = esplora_client::convert_fee_rate(usize::from(target_blocks), estimates)?;
    // Rounded up: below a rate it would take longer.
    Some(rate.ceil().max(1.0) as u64)
}

/// The newest block's height and time (Unix seconds), as the Esplora API at this base URL has it.
pub async fn tip(base: &str) -> Result<(u32, u64), String> {
    let client = esplora_client::Builder::new(base)
        .timeout(TIMEOUT_SECS)
        .max_retries(0)
        .build_async();
    let asked = async {
        let client = client?;
        let hash = client.get_tip_hash().await?;
        let header = client.get_header_by_hash(&hash).await?;
        Ok((client.get_height().await?, u64::from(header.time)))
    };
    match asked.await {
        Ok(tip) => Ok(tip),
        Err(esplora_client::Error::Reqwest(error)) => Err(causes::chain(&error.without_url())),
        Err(error) => Err(error.to_string()),
    }
}

/// What is wrong with the Esplora API at this base URL, in a sentence for the operator.
pub(super) async fn complaint(base: &str) -> String {
    let client = esplora_client::Builder::new(base)
        .timeout(TIMEOUT_SECS)
        .max_retries(0)
        .build_async();
    let asked = match client {
        Ok(client) => client.get_height().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(height) => format!("{base} answers (height {height}) but gave no fee estimates"),
        Err(esplora_client::Error::HttpResponse { status, .. }) => {
            format!(
                "{base} answers with status {status}: is it an Esplora API, and are we rate-limited?"
            )
        }
        Err(esplora_client::Error::Reqwest(error)) => {
            let error = error.without_url();
            format!("{base} does not answer: {}", causes::chain(&error))
        }
        Err(error) => format!("{base} does not answer as an Esplora API does: {error}"),
    }
}
