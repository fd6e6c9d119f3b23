//! `regtest up`: the whole network, for whoever wants to use it from outside.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use regtest::environment;
use regtest::network::{Network, NetworkOptions};
use serde::Serialize;

use crate::shop::Shop;
use crate::stop::{self, Signals};
use crate::tell;

/// Bring up a chain, an Esplora server, a merchant that sells by the given routes, and a payer with a channel to it.
///
/// Stays up until standard input closes or it is told to stop (SIGINT, SIGTERM); with standard input closed from the start,
/// as `</dev/null` does, it ends as soon as everything is up.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A TOML file with the `[[route]]` tables to serve; relative folders in it start at its own folder, and `{esplora}`
    /// stands for the base URL of the network's Esplora server. Without it: the routes of the demonstration.
    #[arg(long, value_name = "ROUTES.toml")]
    routes: Option<PathBuf>,
    /// Print one line of JSON when everything is ready, and nothing else.
    #[arg(long)]
    json: bool,
}

/// Where everything is. The names and their meaning are an interface: other programs read them.
#[derive(Debug, Serialize)]
struct Places {
    /// The merchant's public listener, a URL.
    gate: String,
    /// The merchant's operator listener, a URL.
    admin: String,
    /// The file with the operator's token.
    admin_token_file: PathBuf,
    /// The payer's API, a URL: `POST /pay` with an invoice, `POST /mine` with a number.
    payer: String,
    /// The Esplora server, a URL.
    esplora: String,
    /// bitcoind's RPC, a URL.
    bitcoind_rpc: String,
    /// The file with the RPC's user and password.
    bitcoind_cookie: PathBuf,
    /// Where bitcoind accepts peers, host and port.
    bitcoind_p2p: String,
    /// The public key of the merchant's node.
    merchant_node_id: String,
    /// Where the merchant's node accepts peers, host and port.
    merchant_p2p: String,
    /// Where the merchant keeps its data.
    merchant_data_dir: PathBuf,
}

impl Up {
    /// Runs until told to stop.
    pub(crate) async fn run(
        self,
        tollhouse_exe: Option<PathBuf>,
        signals: &mut Signals,
    ) -> Result<()> {
        let (options, _shop) = self.options(tollhouse_exe)?;
        let network = tokio::select! {
            network = Network::start(options) => network?,
            () = signals.recv() => return Ok(()),
        };
        let places = Places::of(&network);
        if self.json {
            tell::line(&serde_json::to_string(&places).context("failed to write JSON")?);
        } else {
            places.tell();
        }
        tokio::select! {
            () = signals.recv() => {}
            () = stop::input_closed() => {}
        }
        let status = network.stop().await?;
        if !status.success() {
            bail!("the merchant ended with {status}");
        }
        Ok(())
    }

    /// What to start, and the folder that has to live as long.
    fn options(&self, tollhouse_exe: Option<PathBuf>) -> Result<(NetworkOptions, Option<Shop>)> {
        let exe = tollhouse_exe.map_or_else(environment::tollhouse_exe, Ok)?;
        let Some(file) = &self.routes else {
            let shop = Shop::open()?;
            let options = NetworkOptions {
                routes_dir: Some(shop.dir.path().to_owned()),
                ..NetworkOptions::new(exe, &shop.routes)
            };
            return Ok((options, Some(shop)));
        };
        let failed = || format!("failed to read the routes in {}", file.display());
        let routes = std::fs::read_to_string(file).with_context(failed)?;
        let dir = std::path::absolute(file)
            .with_context(failed)?
            .parent()
            .with_context(failed)?
            .to_owned();
        Ok((
            NetworkOptions {
                routes_dir: Some(dir),
                ..NetworkOptions::new(exe, routes)
            },
            None,
        ))
    }
}

impl Places {
    fn of(network: &Network) -> Self {
        let merchant = &network.merchant;
        Self {
            gate: network.gate_url(),
            admin: merchant.admin().url().to_owned(),
            admin_token_file: merchant.admin().token_file().to_owned(),
            payer: network.payer_url(),
            esplora: network.esplora.url(),
            bitcoind_rpc: network.bitcoind.rpc_url().to_owned(),
            bitcoind_cookie: network.bitcoind.cookie().to_owned(),
            bitcoind_p2p: network.bitcoind.p2p().to_string(),
            merchant_node_id: network.peer().node_id.to_string(),
            merchant_p2p: merchant.p2p().to_string(),
            merchant_data_dir: merchant.data_dir().to_owned(),
        }
    }

    fn tell(&self) {
        tell::heading("Everything is up; it stays until Ctrl-C or the end of standard input");
        tell::pair("the merchant sells at", &self.gate);
        tell::pair("its operator looks at", &self.admin);
        tell::pair(
            "  with the token in",
            &self.admin_token_file.display().to_string(),
        );
        tell::pair("its node is", &self.merchant_node_id);
        tell::pair("  at", &self.merchant_p2p);
        tell::pair(
            "its data is in",
            &self.merchant_data_dir.display().to_string(),
        );
        tell::pair(
            "the payer pays at",
            &format!("{} (POST /pay, POST /mine)", self.payer),
        );
        tell::pair("Esplora answers at", &self.esplora);
        tell::pair("bitcoind's RPC is at", &self.bitcoind_rpc);
        tell::pair(
            "  with the cookie in",
            &self.bitcoind_cookie.display().to_string(),
        );
        tell::pair("  and its peers at", &self.bitcoind_p2p);
    }
}
