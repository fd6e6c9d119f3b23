//! What guarding costs: requests a second of a guarded route with good credentials, against those of the same route
//! unguarded. Both are sent the same headers: receiving and parsing them is not the guard's doing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use regtest::client::Credential;
use regtest::network::Network;

use super::goods::{Goods, PAGE, Pair, SMALL, UPSTREAM};
use super::load::{Load, SUMMARY_LUA};
use super::{Effort, Notes, credentials, median};

/// Seconds before the measurement: every token is used once, every connection to the upstream is made.
const WARM_UP_SECS: u32 = 2;

/// Sends the credentials in turn; the second thread begins in the middle. Requests are put together before the run.
const IN_TURN_LUA: &str = r#"
local threads = 0

function setup(thread)
    thread:set("offset", threads * #credentials / 2)
    threads = threads + 1
end

function init(arguments)
    requests = {}
    for number, credential in ipairs(credentials) do
        requests[number] = wrk.format("GET", nil, { ["Authorization"] = credential })
    end
    turn = offset
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end
"#;

/// Guarded requests a second as a part of unguarded ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratios {
    /// A file of 10 KB.
    pub(super) files: f64,
    /// An upstream that answers with 1 KB.
    pub(super) upstream: f64,
    /// A file of 20 bytes.
    pub(super) small: f64,
}

/// Measures all three.
pub(super) async fn ratios(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<Ratios> {
    let credentials = credentials::mint(network).await?;
    for pair in [PAGE, UPSTREAM, SMALL] {
        check(network, pair, &credentials).await?;
    }
    let script = goods.write("credentials.lua", &script(&credentials))?;
    let mut comparison = Comparison {
        network,
        effort,
        script: &script,
        notes,
    };
    Ok(Ratios {
        files: comparison.ratio("a file of 10 KB", PAGE).await?,
        upstream: comparison
            .ratio("an upstream that answers with 1 KB", UPSTREAM)
            .await?,
        small: comparison.ratio("a file of 20 bytes", SMALL).await?,
    })
}

/// What every comparison needs.
struct Comparison<'a> {
    /// The network.
    network: &'a Network,
    /// How long.
    effort: &'a Effort,
    /// The script with the credentials.
    script: &'a Path,
    /// Where remarks go.
    notes: &'a mut Notes,
}

impl Comparison<'_> {
    /// Unguarded and guarded in turn, then the other way round and so on, so that both meet the same machine; the ratio
    /// of the medians.
    async fn ratio(&mut self, what: &str, pair: Pair) -> Result<f64> {
        self.notes
            .progress(&format!("{what}, unguarded and guarded in turn"));
        for path in [pair.open, pair.sold] {
            self.per_sec(path, WARM_UP_SECS).await?;
        }
        let (mut open, mut sold) = (Vec::new(), Vec::new());
        for round in 0..self.effort.guarded_rounds {
            let mut pairs = [(pair.open, &mut open), (pair.sold, &mut sold)];
            if round % 2 == 1 {
                pairs.reverse();
            }
            for (path, rates) in pairs {
                rates.push(self.per_sec(path, self.effort.guarded_secs).await?);
            }
        }
        let (open, sold) = (median(open), median(sold));
        self.notes.remark(format!(
            "{what}: {open:.0}/s unguarded, {sold:.0}/s guarded"
        ));
        Ok(sold / open)
    }

    /// Requests a second to this path, all of which must be served.
    async fn per_sec(&self, path: &str, secs: u32) -> Result<f64> {
        let url = format!("{}{path}", self.network.gate_url());
        let load = Load {
            url: &url,
            secs,
            script: self.script,
        };
        let outcome = load.run().await?;
        outcome.check_served(&url)?;
        Ok(outcome.per_sec())
    }
}

/// Fails unless the guarded path is guarded, opens with the credentials, and gives what the unguarded one does.
async fn check(network: &Network, pair: Pair, credentials: &[Credential]) -> Result<()> {
    let ask = async |path: &str, credential: Option<&Credential>| {
        let url = format!("{}{path}", network.gate_url());
        network.client().get(&url, credential).await
    };
    let open = ask(pair.open, None).await?;
    let unpaid = ask(pair.sold, None).await?;
    let last = credentials.last().context("there are no credentials")?;
    let paid = ask(pair.sold, Some(last)).await?;
    if (open.status, unpaid.status) != (StatusCode::OK, StatusCode::PAYMENT_REQUIRED) {
        bail!(
            "{} answered {}, {} answered {} without a credential",
            pair.open,
            open.status,
            pair.sold,
            unpaid.status
        );
    }
    if paid.status != StatusCode::OK || paid.body != open.body {
        bail!(
            "{} answered {} to a good credential: {}",
            pair.sold,
            paid.status,
            paid.text()
        );
    }
    Ok(())
}

/// The Lua script that sends these credentials.
fn script(credentials: &[Credential]) -> String {
    let headers: String = credentials
        .iter()
        .map(|credential| format!("\"{}\",\n", credential.header()))
        .collect();
    format!("credentials = {{\n{headers}}}\n{IN_TURN_LUA}{SUMMARY_LUA}")
}
