//! What guarding costs: requests a second of a guarded route with good credentials, against those of the same route
//! unguarded, and against nginx. All requests carry the same headers, so that header parsing is not counted as a cost of the
//! guard.

use std::path::Path;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use regtest::client::Credential;
use regtest::network::Network;

use super::goods::{Goods, PAGE, Paths, SMALL, UPSTREAM};
use super::load::{Load, SUMMARY_LUA};
use super::nginx::Nginx;
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

/// Guarded requests per second, divided by those of another server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratios {
    /// Against the unguarded route.
    pub(super) of_unguarded: f64,
    /// Against nginx, which guards nothing.
    pub(super) of_nginx: f64,
}

/// The ratios of every resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct AllRatios {
    /// A file of 10 KB.
    pub(super) files: Ratios,
    /// An upstream that answers with 1 KB.
    pub(super) upstream: Ratios,
    /// A file of 20 bytes.
    pub(super) small: Ratios,
}

/// Measures all three.
pub(super) async fn ratios(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<AllRatios> {
    let nginx = Nginx::start(goods.nginx_exe(), goods).await?;
    let credentials = credentials::mint(network).await?;
    let script = goods.write("credentials.lua", &script(&credentials))?;
    let mut comparison = Comparison {
        network,
        nginx: &nginx,
        effort,
        script: &script,
        notes,
    };
    for paths in [PAGE, UPSTREAM, SMALL] {
        comparison.check(paths, &credentials).await?;
    }
    Ok(AllRatios {
        files: comparison.ratios("a file of 10 KB", PAGE).await?,
        upstream: comparison
            .ratios("an upstream that answers with 1 KB", UPSTREAM)
            .await?,
        small: comparison.ratios("a file of 20 bytes", SMALL).await?,
    })
}

/// What every comparison needs.
struct Comparison<'a> {
    /// The network.
    network: &'a Network,
    /// The nginx to compare with.
    nginx: &'a Nginx,
    /// How long.
    effort: &'a Effort,
    /// The script with the credentials.
    script: &'a Path,
    /// Where remarks go.
    notes: &'a mut Notes,
}

impl Comparison<'_> {
    /// Runs unguarded, guarded and nginx in turn, then in reverse order, and so on, so that all run under the same conditions;
    /// returns the ratios of the medians.
    async fn ratios(&mut self, what: &str, paths: Paths) -> Result<Ratios> {
        self.notes.progress(&format!(
            "{what}, unguarded, guarded and from nginx in turn"
        ));
        let urls = self.urls(paths);
        for url in &urls {
            self.per_sec(url, WARM_UP_SECS).await?;
        }
        let mut rates = urls.map(|url| (url, Vec::new()));
        for _ in 0..self.effort.guarded_rounds {
            for (url, rates) in &mut rates {
                rates.push(self.per_sec(url, self.effort.guarded_secs).await?);
            }
            rates.reverse();
        }
        if self.effort.guarded_rounds % 2 == 1 {
            rates.reverse();
        }
        let [open, sold, nginx] = rates.map(|(_, rates)| median(rates));
        self.notes.remark(format!(
            "{what}: {open:.0}/s unguarded, {sold:.0}/s guarded, {nginx:.0}/s from nginx"
        ));
        Ok(Ratios {
            of_unguarded: sold / open,
            of_nginx: sold / nginx,
        })
    }

    /// The unguarded, guarded and nginx URLs.
    fn urls(&self, paths: Paths) -> [String; 3] {
        let gate = self.network.gate_url();
        [
            format!("{gate}{}", paths.open),
            format!("{gate}{}", paths.sold),
            format!("{}{}", self.nginx.url(), paths.nginx),
        ]
    }

    /// Requests per second to this URL; fails if any is not served.
    async fn per_sec(&self, url: &str, secs: u32) -> Result<f64> {
        let load = Load {
            url,
            secs,
            script: self.script,
        };
        let outcome = load.run().await?;
        outcome.check_served(url)?;
        Ok(outcome.per_sec())
    }

    /// Fails unless the guarded path asks for payment, accepts the credentials, and returns the same body as the unguarded path
    /// and nginx.
    async fn check(&self, paths: Paths, credentials: &[Credential]) -> Result<()> {
        let client = self.network.client();
        let [open_url, sold_url, nginx_url] = self.urls(paths);
        let open = client.get(&open_url, None).await?;
        let nginx = client.get(&nginx_url, None).await?;
        let unpaid = client.get(&sold_url, None).await?;
        let last = credentials.last().context("failed to find a credential")?;
        let paid = client.get(&sold_url, Some(last)).await?;
        if (open.status, unpaid.status) != (StatusCode::OK, StatusCode::PAYMENT_REQUIRED) {
            bail!(
                "{open_url} answered {}, {sold_url} answered {} without a credential",
                open.status,
                unpaid.status
            );
        }
        if paid.status != StatusCode::OK || paid.body != open.body {
            bail!(
                "{sold_url} answered {} to a good credential: {}",
                paid.status,
                paid.text()
            );
        }
        if nginx.status != StatusCode::OK || nginx.body != open.body {
            bail!("{nginx_url} answered {}: {}", nginx.status, nginx.text());
        }
        Ok(())
    }
}

/// The Lua script that sends these credentials.
fn script(credentials: &[Credential]) -> String {
    let headers: String = credentials
        .iter()
        .map(|credential| format!("\"{}\",\n", credential.header()))
        .collect();
    format!("credentials = {{\n{headers}}}\n{IN_TURN_LUA}{SUMMARY_LUA}")
}
