//! A look at an Electrum server, by the same client that ldk-node reads the chain with: what is wrong for one is wrong for the
//! other.

use bitcoin::Network;
use bitcoin::constants::genesis_block;
use electrum_client::{Client, ConfigBuilder, ElectrumApi as _, Error};

/// How long a connection or an answer may take: somebody waits for it.
const TIMEOUT_SECS: u8 = 10;

/// The height of its newest block and when that was made, Unix seconds; or what is wrong with it, in a sentence.
pub(crate) async fn newest(url: &str, network: Network) -> Result<(u32, u64), String> {
    let asked = url.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let config = ConfigBuilder::new().timeout(Some(TIMEOUT_SECS)).retry(0);
        let client = Client::from_config(&asked, config.build())?;
        // Not `server.features`, which many servers do not have.
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

/// What an error means for whoever runs this.
fn sentence(url: &str, error: &Error) -> String {
    let said = error.to_string();
    if said.contains("server.version") {
        // ElectrumX from 1.19 on.
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
        // Answers whoever connects in another language.
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
