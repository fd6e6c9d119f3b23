//! A look at the chain source from outside of ldk-node, which says only that it failed and not why.

use crate::causes;

/// How long the look may take: ldk-node itself gave up after five seconds.
const TIMEOUT_SECS: u64 = 5;

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
