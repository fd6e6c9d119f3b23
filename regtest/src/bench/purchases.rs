//! How long a customer waits: for the first challenge after a start, and from a challenge to what was bought.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::StatusCode;
use regtest::network::Network;
use regtest::payer::Peer;
use tokio::net::TcpStream;
use tokio::time::interval;

use super::goods::{SMALL, UPSTREAM};
use super::{Effort, Notes, median, millis};

/// The pause between two requests while the process comes up.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// The pause between two tries of the payer to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(5);
/// A purchase that took longer than this is told, ms.
const SLOW_MS: f64 = 400.0;
/// When to give up on the first 402.
const FIRST_402_DEADLINE: Duration = Duration::from_secs(30);

/// From the start of the process to its first 402, with one channel whose other end connects as soon as it can.
pub(super) async fn first_402_ms(
    network: &mut Network,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..effort.rounds {
        notes.progress("stopping the merchant, starting it, waiting for its first 402");
        let status = network.merchant.terminate().await?;
        if !status.success() {
            bail!("the merchant ended with {status}");
        }
        let begun = Instant::now();
        network.merchant.restart().await?;
        let started = first_402(network, begun).await?;
        notes.remark(format!(
            "first 402 after {:.0} ms; its port answered after {:.0} ms, the payer was connected after {:.0} ms",
            millis(started.first_402),
            millis(started.first_answer),
            millis(started.connected)
        ));
        rounds.push(millis(started.first_402));
        // Waits as long as both sides need, and finds the channel as it was.
        if network.ensure_channel().await? > 0 {
            bail!("the channel did not survive the restart");
        }
    }
    Ok(median(rounds))
}

/// When what happened, from the start of the process.
#[derive(Clone, Copy, Debug)]
struct Started {
    /// The public listener answered anything.
    first_answer: Duration,
    /// The payer's node was connected.
    connected: Duration,
    /// The first 402 was there.
    first_402: Duration,
}

/// Asks until there is a 402, while the payer connects.
async fn first_402(network: &Network, begun: Instant) -> Result<Started> {
    let asked = tokio::time::timeout(FIRST_402_DEADLINE, async {
        tokio::try_join!(ask_until_402(network, begun), connect(network, begun))
    });
    let Ok(started) = asked.await else {
        bail!("waited {FIRST_402_DEADLINE:?} for the first 402");
    };
    let ((first_answer, first_402), connected) = started?;
    Ok(Started {
        first_answer,
        connected,
        first_402,
    })
}

/// When the first answer and when the first 402 came.
async fn ask_until_402(network: &Network, begun: Instant) -> Result<(Duration, Duration)> {
    let url = format!("{}{}", network.gate_url(), UPSTREAM.sold);
    let mut pause = interval(ASK_EVERY);
    let mut first_answer = None;
    loop {
        pause.tick().await;
        // Nobody listens at first.
        let Ok(answer) = network.client().get(&url, None).await else {
            continue;
        };
        let first_answer = *first_answer.get_or_insert(begun.elapsed());
        match answer.status {
            StatusCode::PAYMENT_REQUIRED => return Ok((first_answer, begun.elapsed())),
            StatusCode::SERVICE_UNAVAILABLE => {}
            other => bail!("{url} answered {other} after the start: {}", answer.text()),
        }
    }
}

/// When the payer's node was connected to the merchant's.
pub(super) async fn connect(network: &Network, begun: Instant) -> Result<Duration> {
    let Peer { node_id, address } = network.peer();
    let mut pause = interval(CONNECT_EVERY);
    loop {
        pause.tick().await;
        // The payer's node would complain of every port that is still closed.
        if TcpStream::connect(address).await.is_err() {
            continue;
        }
        let connected = network
            .payer
            .blocking(move |node| node.connect(node_id, address.into(), true))
            .await?;
        if connected.is_ok() {
            return Ok(begun.elapsed());
        }
    }
}

/// The median time from a 402 to the 200, one purchase after the other.
pub(super) async fn pay_ms_p50(
    network: &Network,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    notes.progress(&format!("{} purchases in a row", effort.purchases));
    let url = format!("{}{}", network.gate_url(), SMALL.sold);
    let (mut whole, mut paying) = (Vec::new(), Vec::new());
    for _ in 0..effort.purchases {
        let refusal = network.client().get(&url, None).await?;
        let begun = Instant::now();
        let challenge = refusal.challenge()?;
        let paid = network.payer.pay(&challenge.bolt11).await?;
        let answer = network
            .client()
            .get(&url, Some(&challenge.credential(&paid)))
            .await?;
        if answer.status != StatusCode::OK {
            bail!("a purchase ended with {}: {}", answer.status, answer.text());
        }
        whole.push(millis(begun.elapsed()));
        paying.push(millis(paid.took));
    }
    let slow: Vec<String> = (1..)
        .zip(whole.iter().zip(&paying))
        .filter(|(_, (whole, _))| **whole > SLOW_MS)
        .map(|(number, (whole, paying))| {
            format!("number {number} with {whole:.0} ms ({paying:.0} of them for the payment)")
        })
        .collect();
    notes.remark(format!(
        "purchases: the payment alone {:.1} ms at the median; slow ones: {}",
        median(paying),
        if slow.is_empty() {
            "none".to_owned()
        } else {
            slow.join(", ")
        }
    ));
    Ok(median(whole))
}
