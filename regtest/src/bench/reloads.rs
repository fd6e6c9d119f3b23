//! Settings that are read again and again while requests are served: none of them may fail.

use std::time::Duration;

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use regtest::network::Network;

use super::goods::{Goods, SMALL};
use super::load::{Load, SUMMARY_LUA};
use super::{Effort, Notes};

/// Time between two reloads.
const EVERY: Duration = Duration::from_millis(100);

/// Requests that failed; wrk's own complaint about connections that broke is an error.
pub(super) async fn failed(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    notes.progress("requests while the settings are read again and again");
    let url = format!("{}{}", network.gate_url(), SMALL.open);
    let script = goods.write("summary.lua", SUMMARY_LUA)?;
    let load = Load {
        url: &url,
        secs: effort.guarded_secs,
        script: &script,
    };
    let mut reloads = 0_u32;
    let reloading = async {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            let admin = network.merchant.admin();
            let (status, said) = admin.call(Method::POST, "/reload").await?;
            if status != StatusCode::OK {
                bail!("a reload ended with {status}: {said}");
            }
            reloads += 1;
        }
        #[expect(unreachable_code, reason = "it ends with the load beside it")]
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = load.run() => outcome?,
        ended = reloading => return ended.map(|()| f64::NAN),
    };
    notes.remark(format!(
        "{} requests during {reloads} reloads, {} refused",
        outcome.requests, outcome.refused
    ));
    Ok(outcome.refused as f64)
}
