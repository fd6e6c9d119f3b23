//! The operator's own bitcoind: its login, and a check that says why it fails. ldk-node says only
//! that it failed.

use std::fmt;

use bitcoin::Network;
use serde::Deserialize;

use crate::base::{error_chain, secret_file};

use super::source::{Bitcoind, ChainSource, Login};

/// The limit for the check. ldk-node itself gives up after five seconds.
const TIMEOUT_SECS: u64 = 5;

/// A user name and a password.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Reads the credentials from their file. They must be read each time, because bitcoind writes a
/// new cookie at each start. Blocks on the disk.
pub(crate) fn credentials(login: &Login) -> Result<Credentials, String> {
    match login {
        Login::Password { user, file } => {
            let password = secret_file::handed_over_line(file);
            Ok(Credentials {
                user: user.clone(),
                password: password.map_err(|error| error_chain::chain(&error))?,
            })
        }
        Login::Cookie(file) => {
            let shown = file.display();
            // bitcoind creates the cookie as its own user, so its owner and mode are not ours to
            // check.
            let cookie = secret_file::line_of_another(file).map_err(|error| {
                let why = error_chain::chain(&error);
                format!("failed to read its cookie {shown}: {why}; check that it runs")
            })?;
            let (user, password) = cookie
                .split_once(':')
                .ok_or_else(|| format!("{shown} is no cookie of bitcoind's"))?;
            Ok(Credentials {
                user: user.to_owned(),
                password: password.to_owned(),
            })
        }
    }
}

/// Returns what is wrong with the chain source, in a sentence for the operator; `None` if it
/// answers.
pub(crate) async fn complaint(source: &ChainSource, network: Network) -> Option<String> {
    match source {
        // The relay always answers, and reports itself which endpoints fail.
        ChainSource::Esplora { .. } => None,
        ChainSource::Electrum(url) => super::electrum::newest(url, network).await.err(),
        ChainSource::Bitcoind(bitcoind) => newest(bitcoind, network).await.err(),
    }
}

#[derive(Debug, Deserialize)]
struct Reply {
    result: Option<Chain>,
    error: Option<Refusal>,
}

/// The fields of `getblockchaininfo` that are used here.
#[derive(Debug, Deserialize)]
struct Chain {
    chain: String,
    blocks: u32,
    headers: u32,
    time: u64,
    initialblockdownload: bool,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// Returns the height of bitcoind's newest block and the block's time in Unix seconds. The error is
/// a sentence that says what is wrong with bitcoind.
pub(crate) async fn newest(bitcoind: &Bitcoind, network: Network) -> Result<(u32, u64), String> {
    let login = bitcoind.login.clone();
    let read = tokio::task::spawn_blocking(move || credentials(&login)).await;
    let Credentials { user, password } = read.map_err(|error| error.to_string())??;
    let url = format!("http://{}:{}/", bitcoind.host, bitcoind.port);
    let client = esplora_client::Builder::new(&url)
        .timeout(TIMEOUT_SECS)
        .build_async()
        .map_err(|error| error_chain::chain(&error))?;
    let asked = client
        .client()
        .post(&url)
        .basic_auth(user, Some(password))
        .body(r#"{"method":"getblockchaininfo","params":[],"id":0}"#)
        .send()
        .await;
    let unreachable = |why: String| format!("{url} does not answer: {why}");
    let answer = asked.map_err(|error| unreachable(error_chain::chain(&error.without_url())))?;
    let status = answer.status();
    if status == http::StatusCode::UNAUTHORIZED {
        return Err(format!("{url} does not know this name and password"));
    }
    let body = answer
        .bytes()
        .await
        .map_err(|error| unreachable(error_chain::chain(&error.without_url())))?;
    let reply: Reply = serde_json::from_slice(&body)
        .map_err(|_| format!("{url} answers with status {status}: is it the RPC of a bitcoind?"))?;
    match (reply.result, reply.error) {
        (Some(chain), _) => judge(&chain, network, &url),
        (None, Some(refusal)) => Err(format!("{url} refuses: {}", refusal.message)),
        (None, None) => Err(format!("{url} gives an empty answer")),
    }
}

fn judge(chain: &Chain, network: Network, url: &str) -> Result<(u32, u64), String> {
    let wanted = network.to_core_arg();
    if chain.chain != wanted {
        return Err(format!(
            "{url} is on the network `{}`, and node.network wants `{wanted}`",
            chain.chain
        ));
    }
    // On regtest, bitcoind reports this state whenever its newest block is a day old.
    if chain.initialblockdownload && network != Network::Regtest {
        return Err(format!(
            "{url} is still downloading the chain: block {} of {}",
            chain.blocks, chain.headers
        ));
    }
    Ok((chain.blocks, chain.time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitcoind_on_another_network_or_half_way_is_told_apart() {
        let chain = |chain: &str, is_downloading| Chain {
            chain: chain.to_owned(),
            blocks: 5,
            headers: 9,
            time: 7,
            initialblockdownload: is_downloading,
        };
        let judged = |chain, network| judge(&chain, network, "url");
        assert_eq!(judged(chain("main", false), Network::Bitcoin), Ok((5, 7)));
        assert_eq!(judged(chain("regtest", true), Network::Regtest), Ok((5, 7)));
        let wrong = judged(chain("test", false), Network::Bitcoin).unwrap_err();
        assert!(
            wrong.contains("`test`") && wrong.contains("`main`"),
            "{wrong}"
        );
        let half = judged(chain("main", true), Network::Bitcoin).unwrap_err();
        assert!(half.contains("block 5 of 9"), "{half}");
    }

    #[test]
    fn a_cookie_is_split_and_nobody_prints_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".cookie");
        let missing = credentials(&Login::Cookie(file.clone())).unwrap_err();
        assert!(missing.contains("check that it runs"), "{missing}");
        std::fs::write(&file, "__cookie__:a:b").unwrap();
        let read = credentials(&Login::Cookie(file)).unwrap();
        assert_eq!((&*read.user, &*read.password), ("__cookie__", "a:b"));
        assert_eq!(format!("{read:?}"), "Credentials(…)");
    }
}
