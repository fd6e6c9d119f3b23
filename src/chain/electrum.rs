//! Checks an Electrum server with the same client library that ldk-node uses, so that both meet the
//! same errors.

use bitcoin::Network;
use bitcoin::constants::genesis_block;
use electrum_client::{Client, ConfigBuilder, ElectrumApi as _, Error};

/// The limit for a connection or an answer: a person waits for the result.
const TIMEOUT_SECS: u8 = 10;

/// Returns the height of the server's newest block and the block's time in Unix seconds. The error
/// is a sentence that says what is wrong with the server.
pub(crate) async fn newest(url: &str, network: Network) -> Result<(u32, u64), String> {
    let asked = url.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let config = ConfigBuilder::new().timeout(Some(TIMEOUT_SECS)).retry(0);
        let client = Client::from_config(&asked, config.build())?;
        // `server.features` is not used here, because many servers do not support it.
        let first = client.block_header(0)?;
        let newest = client.block_headers_subscribe()?;
        Ok((first.block_hash(), newest))
    });
    let (first, newest) = match looked.await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => return Err(sentence(url, &error)),
        Err(panicked) => return Err(panicked.to_string()),
    };
    let wanted = genesis_block(network).block_hash();
    if first != wanted {
        return Err(format!(
            "{url} is on another network: its first block is {first}, and that of node.network is {wanted}"
        ));
    }
    let height = u32::try_from(newest.height).unwrap_or(u32::MAX);
    Ok((height, u64::from(newest.header.time)))
}

/// Explains an error to the operator.
fn sentence(url: &str, error: &Error) -> String {
    let said = error.to_string();
    if said.contains("server.version") {
        // ElectrumX does this from version 1.19 on.
        return format!(
            "{url} wants to be told the client's version first, which the Electrum client in this program does not do: \
             use an older server (ElectrumX 1.18), one of another kind, or an Esplora API"
        );
    }
    format!("{url} does not answer as an Electrum server: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_new_is_told_apart() {
        let refusal =
            serde_json::json!({"code": 1, "message": "use server.version to identify client"});
        let said = sentence("tcp://127.0.0.1:1", &Error::Protocol(refusal));
        assert!(said.contains("ElectrumX 1.18"), "{said}");
    }

    #[tokio::test]
    async fn who_is_not_there_or_no_electrum_server_is_said() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // This server answers every client in another protocol.
        std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut client, _) = listener.accept().unwrap();
            client
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .unwrap();
        });
        for _ in 0..2 {
            let said = newest(&format!("tcp://{address}"), Network::Regtest)
                .await
                .unwrap_err();
            assert!(
                said.contains("does not answer as an Electrum server"),
                "{said}"
            );
        }
    }
}
