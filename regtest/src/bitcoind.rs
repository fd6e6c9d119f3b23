//! A real `bitcoind` on a regtest chain of its own, with a wallet that has money.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bitcoin::{Address, Amount, BlockHash, Txid};
use corepc_node::{Conf, P2P};
use serde_json::{Value, json};

use crate::environment;
use crate::parent::{self, Parent};
use crate::rpc::{Rpc, RpcError};
use crate::wait::eventually;

/// Blocks before the first coinbase can be spent, and one more.
const MATURE_BLOCKS: u32 = 101;
/// A broadcast passes from a node through Esplora to bitcoind in milliseconds; this is for a busy machine.
const MEMPOOL_DEADLINE: Duration = Duration::from_secs(15);
/// How often bitcoind is started before the harness gives up: corepc-node waits five seconds each time.
const START_ATTEMPTS: u8 = 6;
/// How long making the wallet may take.
const WALLET_DEADLINE: Duration = Duration::from_secs(60);
/// The wallet that mines and pays.
const WALLET: &str = "harness";

/// What bitcoind is told besides its folders and ports.
const ARGS: [&str; 15] = [
    "-regtest",
    "-txindex=1",
    "-fallbackfee=0.0001",
    // Bitcoin Core's default, and not Bitcoin Knots's.
    "-addresstype=bech32",
    "-changetype=bech32",
    "-listen=1",
    "-listenonion=0",
    "-i2pacceptincoming=0",
    "-natpmp=0",
    "-dnsseed=0",
    "-fixedseeds=0",
    "-discover=0",
    // A wallet fills its pool of keys when it is made; the default of a thousand takes most of the start.
    "-keypool=10",
    "-rpcworkqueue=128",
    "-persistmempool=0",
];

/// A running `bitcoind`; gone when it is dropped, and when the harness is killed.
#[derive(Debug)]
pub struct Bitcoind {
    /// `None` once stopped.
    node: Option<corepc_node::Node>,
    /// The thread whose end takes the process along.
    _parent: Parent,
    /// Calls on behalf of the owner of this value.
    rpc: Rpc,
    /// The wallet's address, to which every block pays.
    address: Address,
    rpc_url: String,
    cookie: PathBuf,
    p2p: SocketAddr,
}

impl Bitcoind {
    /// Starts one with its data under `dir`, and mines until its wallet can pay.
    ///
    /// # Errors
    /// When there is no usable `bitcoind` or it does not come up.
    pub async fn start(dir: &Path) -> Result<Self> {
        let exe = bound_exe(&environment::bitcoind_exe()?, dir)?;
        let tmpdir = dir.to_owned();
        let (node, parent) = parent::start("bitcoind", move || {
            let mut conf = Conf::default();
            conf.args = ARGS.to_vec();
            conf.p2p = P2P::Yes;
            conf.tmpdir = Some(tmpdir);
            // Made below: corepc-node gives a wallet two seconds, which a busy disk may need for more.
            conf.wallet = None;
            conf.attempts = START_ATTEMPTS;
            corepc_node::Node::with_conf(&exe, &conf)
                .with_context(|| format!("failed to start bitcoind through {}", exe.display()))
        })
        .await?;
        let rpc_url = node.rpc_url();
        let cookie = node.params.cookie_file.clone();
        let p2p = SocketAddr::from(
            node.params
                .p2p_socket
                .context("bitcoind opened no port for peers")?,
        );
        let rpc = Rpc::open(&rpc_url, &cookie)?;
        make_wallet(&rpc).await?;
        let address: String = rpc.call("getnewaddress", json!([])).await?;
        let address = parse_address(&address)?;
        let bitcoind = Self {
            node: Some(node),
            _parent: parent,
            rpc,
            address,
            rpc_url,
            cookie,
            p2p,
        };
        bitcoind.mine(MATURE_BLOCKS).await?;
        Ok(bitcoind)
    }

    /// Calls on this bitcoind's RPC.
    #[must_use]
    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// The RPC's URL.
    #[must_use]
    pub fn rpc_url(&self) -> &str {
        &self.rpc_url
    }

    /// The file with the RPC's user and password.
    #[must_use]
    pub fn cookie(&self) -> &Path {
        &self.cookie
    }

    /// Where other Bitcoin nodes can connect.
    #[must_use]
    pub fn p2p(&self) -> SocketAddr {
        self.p2p
    }

    /// The wallet's address that mined blocks pay to.
    #[must_use]
    pub fn mining_address(&self) -> &Address {
        &self.address
    }

    /// Mines blocks with everything that the mempool holds.
    ///
    /// # Errors
    /// When bitcoind refuses or is gone.
    pub async fn mine(&self, blocks: u32) -> Result<Vec<BlockHash>, RpcError> {
        mine(&self.rpc, &self.address, blocks).await
    }

    /// Pays from the wallet, in one transaction, without mining it.
    ///
    /// # Errors
    /// When bitcoind refuses or is gone.
    pub async fn send(&self, payments: &[(Address, Amount)]) -> Result<Txid, RpcError> {
        let amounts: serde_json::Map<String, Value> = payments
            .iter()
            .map(|(to, amount)| (to.to_string(), json!(amount.to_btc())))
            .collect();
        self.rpc.call("sendmany", json!(["", amounts])).await
    }

    /// Waits until the mempool holds that transaction: a node's broadcast reports no error to its caller.
    ///
    /// # Errors
    /// When it did not arrive in time.
    pub async fn wait_for_mempool(&self, txid: Txid) -> Result<()> {
        eventually(
            &format!("transaction {txid} in the mempool"),
            MEMPOOL_DEADLINE,
            || async {
                match self
                    .rpc
                    .call::<Value>("getmempoolentry", json!([txid]))
                    .await
                {
                    Ok(_) => Ok(Some(())),
                    Err(error) => Err(error),
                }
            },
        )
        .await
    }

    /// Declares that block invalid, and with it all that follow: a reorganisation begins.
    ///
    /// # Errors
    /// When bitcoind refuses or is gone.
    pub async fn invalidate(&self, block: BlockHash) -> Result<(), RpcError> {
        self.rpc.call("invalidateblock", json!([block])).await
    }

    /// Asks it to stop and waits until it did.
    pub fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            // An error means that it is gone already; dropping the value removes its folder either way.
            parent::off_runtime(|| {
                let _ = node.stop();
                drop(node);
            });
        }
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Mines blocks that pay to `address`.
pub(crate) async fn mine(
    rpc: &Rpc,
    address: &Address,
    blocks: u32,
) -> Result<Vec<BlockHash>, RpcError> {
    rpc.call("generatetoaddress", json!([blocks, address.to_string()]))
        .await
}

/// Reads an address of the regtest chain.
///
/// # Errors
/// When it is none.
pub fn parse_address(text: &str) -> Result<Address> {
    text.parse::<Address<_>>()
        .and_then(|address| address.require_network(bitcoin::Network::Regtest))
        .with_context(|| format!("{text} is no regtest address"))
}

/// Makes the wallet that mines and pays. A call that timed out may have made it.
async fn make_wallet(rpc: &Rpc) -> Result<()> {
    eventually("the wallet of bitcoind", WALLET_DEADLINE, || async {
        let made: Result<serde_json::Value, RpcError> =
            rpc.call("createwallet", json!([WALLET])).await;
        let loaded: Vec<String> = rpc.call("listwallets", json!([])).await?;
        if loaded.iter().any(|name| name == WALLET) {
            return Ok(Some(()));
        }
        made.map(|_| None)
    })
    .await
}

/// An executable that starts `exe` bound to the life of the starting thread, and in a session of its own, where a Ctrl-C does not
/// reach it: corepc-node takes one path and puts its own arguments first, so the binding goes into a file.
///
/// A shell writes that file: were it open for writing in this process, a child that another thread starts at the same
/// moment would inherit it, and running it would fail with "text file busy".
fn bound_exe(exe: &Path, dir: &Path) -> Result<PathBuf> {
    let Some(setpriv) = parent::setpriv() else {
        return Ok(exe.to_owned());
    };
    let script = dir.join("bitcoind-bound");
    // Of the same package.
    let setsid = environment::on_path("setsid");
    let setsid = setsid.map_or_else(String::new, |setsid| format!("'{}' ", setsid.display()));
    let lines = format!(
        "#!/bin/sh\nexec {setsid}'{}' --pdeathsig KILL -- '{}' \"$@\"\n",
        setpriv.display(),
        exe.display()
    );
    let written = Command::new("sh")
        .args(["-c", r#"printf %s "$1" >"$0" && chmod 755 "$0""#])
        .arg(&script)
        .arg(&lines)
        .status()
        .with_context(|| format!("failed to write {}", script.display()))?;
    if !written.success() {
        bail!(
            "failed to write {}: the shell ended with {written}",
            script.display()
        );
    }
    Ok(script)
}
