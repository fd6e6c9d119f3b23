//! `regtest demo`: a purchase, told step by step as it happens.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bitcoin::hashes::{Hash as _, sha256};
use clap::Args;
use http::StatusCode;
use regtest::client::{Answer, Challenge, Client, Credential};
use regtest::environment;
use regtest::network::{Network, NetworkOptions};
use regtest::payer::Paid;

use crate::shop::{ARTICLE, CHAIN_REQUESTS, MENU, Shop};
use crate::stop::Signals;
use crate::tell;

/// The chain's height, from an Esplora server that knows nothing of payments.
const HEIGHT: &str = "/chain/blocks/tip/height";
/// A payment that took longer than this had to wait for the merchant's node.
const WAITED: Duration = Duration::from_millis(500);
/// Characters of a token, an invoice or a preimage that are shown.
const SHOWN: usize = 24;

/// Show a purchase over a real Lightning channel, step by step.
///
/// Without --once the shop stays open afterwards, until Ctrl-C, with lines to copy; what happens to standard input does not
/// matter then.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Buy and end.
    #[arg(long)]
    once: bool,
}

impl Demo {
    /// Tells the story, and stays until told to stop unless it was asked to end.
    pub(crate) async fn run(
        self,
        tollhouse_exe: Option<PathBuf>,
        signals: &mut Signals,
    ) -> Result<()> {
        let shop = Shop::open()?;
        let exe = tollhouse_exe.map_or_else(environment::tollhouse_exe, Ok)?;
        let options = NetworkOptions {
            routes_dir: Some(shop.dir.path().to_owned()),
            ..NetworkOptions::new(exe, &shop.routes)
        };
        tell::heading("A Bitcoin chain of our own, a shop, a customer, a channel between them");
        let network = tokio::select! {
            network = Network::start(options) => network?,
            () = signals.recv() => return Ok(()),
        };
        for step in network.steps() {
            tell::pair(&tell::took(step.took), step.what);
        }
        tokio::select! {
            told = story(&network) => told.with_context(|| network.merchant.log_tail())?,
            () = signals.recv() => return Ok(()),
        }
        if !self.once {
            try_it(&network);
            signals.recv().await;
        }
        let status = network.stop().await?;
        if !status.success() {
            bail!("the merchant ended with {status}");
        }
        Ok(())
    }
}

async fn story(network: &Network) -> Result<()> {
    let credential = purchase(network).await?;
    spend(network, &credential).await?;
    article(network).await?;
    books(network).await
}

/// The first purchase, in every detail.
async fn purchase(network: &Network) -> Result<Credential> {
    let client = network.client();
    tell::heading("1  The customer asks for the height of the chain");
    let refusal = ask(client, network, HEIGHT, None, StatusCode::PAYMENT_REQUIRED).await?;
    let challenge = refusal.challenge()?;
    tell_challenge(&challenge)?;

    tell::heading("2  The customer's node pays the invoice");
    let paid = network.payer.pay(&challenge.bolt11).await?;
    tell_payment(&challenge, &paid)?;

    tell::heading("3  The same request, with the token and the proof of payment");
    let credential = challenge.credential(&paid);
    let answer = ask(client, network, HEIGHT, Some(&credential), StatusCode::OK).await?;
    let height = answer.text();
    height
        .trim()
        .parse::<u32>()
        .with_context(|| format!("{height} is no height"))?;
    tell::pair(
        "the resource",
        &format!(
            "{} — the height of this chain, from its Esplora API",
            height.trim()
        ),
    );
    Ok(credential)
}

/// The rest of the grant, and what comes after it.
async fn spend(network: &Network, credential: &Credential) -> Result<()> {
    tell::heading(&format!(
        "4  The token is good for {CHAIN_REQUESTS} requests; the rest need no payment"
    ));
    for _ in 1..CHAIN_REQUESTS {
        ask(
            network.client(),
            network,
            HEIGHT,
            Some(credential),
            StatusCode::OK,
        )
        .await?;
    }
    tell::heading("5  Now it is spent: refused, with a fresh challenge");
    let refusal = ask(
        network.client(),
        network,
        HEIGHT,
        Some(credential),
        StatusCode::PAYMENT_REQUIRED,
    )
    .await?;
    let challenge = refusal.challenge()?;
    if challenge.macaroon == credential.macaroon_base64 {
        bail!("the challenge repeats the spent token");
    }
    if let Some(detail) = challenge.problem["detail"].as_str() {
        tell::pair("the merchant says", detail);
    }
    Ok(())
}

/// The second thing that is sold, in one breath.
async fn article(network: &Network) -> Result<()> {
    tell::heading("6  Another service: an article, sold from a folder");
    let path = format!("/articles/{ARTICLE}");
    let purchase = network.buy(&path).await?;
    if purchase.answer.status != StatusCode::OK {
        bail!(
            "{path} answered {} after the payment: {}",
            purchase.answer.status,
            purchase.answer.text()
        );
    }
    let amount = amount(purchase.challenge.invoice()?.amount_milli_satoshis());
    let text = purchase.answer.text();
    let title = text
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"));
    let (title, _) = title.context("the article has no title")?;
    tell::pair(
        "402",
        &format!("after {}", tell::took(purchase.refusal.took)),
    );
    tell::pair(
        "paid",
        &format!("{amount} in {}", tell::took(purchase.paid.took)),
    );
    let (bytes, took) = (purchase.answer.body.len(), tell::took(purchase.answer.took));
    tell::pair("200", &format!("after {took}: “{title}”, {bytes} bytes"));
    let menu = ask(
        network.client(),
        network,
        &format!("/open/{MENU}"),
        None,
        StatusCode::OK,
    )
    .await?;
    tell::pair(
        "and for free",
        &format!("{} bytes: the list of what is sold", menu.body.len()),
    );
    Ok(())
}

/// What the merchant's ledger has of all this.
async fn books(network: &Network) -> Result<()> {
    tell::heading("7  The merchant's books");
    let sales = network.merchant.admin().sales(10).await?;
    if sales.len() != 2 {
        bail!(
            "the books show {} sales after two purchases: {sales:?}",
            sales.len()
        );
    }
    for sale in sales.iter().rev() {
        let service = sale["service"].as_str().unwrap_or("?");
        let hash = tell::shortened(sale["payment_hash"].as_str().unwrap_or("?"), 16);
        tell::pair(
            service,
            &format!("{}, payment {hash}", amount(sale["amount_msat"].as_u64())),
        );
    }
    Ok(())
}

/// Asks, tells both directions, and fails if the answer has another status than expected.
async fn ask(
    client: &Client,
    network: &Network,
    path: &str,
    credential: Option<&Credential>,
    expected: StatusCode,
) -> Result<Answer> {
    tell::wire(&format!("> GET {path}"));
    if let Some(credential) = credential {
        let (token, preimage) = (
            &credential.macaroon_base64[..8],
            &credential.preimage_hex[..8],
        );
        tell::wire(&format!("> Authorization: L402 {token}…:{preimage}…"));
    }
    let answer = client
        .get(&format!("{}{path}", network.gate_url()), credential)
        .await?;
    tell::wire(&format!(
        "< {}   ({})",
        answer.status,
        tell::took(answer.took)
    ));
    if answer.status != expected {
        bail!(
            "{path} answered {} where {expected} is due: {}",
            answer.status,
            answer.text()
        );
    }
    Ok(answer)
}

fn tell_challenge(challenge: &Challenge) -> Result<()> {
    tell::wire("< WWW-Authenticate: L402");
    tell::wire(&format!(
        "<   macaroon=\"{}\",",
        tell::shortened(&challenge.macaroon, SHOWN)
    ));
    tell::wire(&format!(
        "<   invoice=\"{}\"",
        tell::shortened(&challenge.bolt11, SHOWN)
    ));
    let invoice = challenge.invoice()?;
    tell::pair(
        "the invoice asks for",
        &amount(invoice.amount_milli_satoshis()),
    );
    tell::pair("  for", &invoice.description().to_string());
    let left = invoice.expires_at().and_then(|at| at.checked_sub(now()));
    tell::pair(
        "  within",
        &left.map_or_else(|| "it has expired".to_owned(), minutes),
    );
    tell::pair(
        "  payment hash",
        &tell::shortened(&invoice.payment_hash().to_string(), SHOWN),
    );
    let token = challenge.token()?;
    let mut label = "the token says";
    for caveat in &token.caveats {
        tell::pair(label, &explained(caveat));
        label = "";
    }
    if token.payment_hash_hex() != Some(invoice.payment_hash().to_string()) {
        bail!("the token names another payment than the invoice");
    }
    Ok(())
}

fn tell_payment(challenge: &Challenge, paid: &Paid) -> Result<()> {
    let amount = amount(challenge.invoice()?.amount_milli_satoshis());
    tell::pair(
        "paid",
        &format!(
            "{amount} in {}, {} msat of fees",
            tell::took(paid.took),
            paid.fee_msat
        ),
    );
    if paid.took > WAITED {
        tell::pair(
            "",
            "(LDK lets a first payment wait until its node is two seconds up)",
        );
    }
    tell::pair(
        "proof of payment",
        &tell::shortened(&paid.preimage_hex(), SHOWN),
    );
    if sha256::Hash::hash(&paid.preimage.0) != *challenge.invoice()?.payment_hash() {
        bail!("the preimage is not the one of the invoice's payment hash");
    }
    tell::pair("", "its SHA-256 is the payment hash above");
    Ok(())
}

/// A caveat, with a time of day as the time that is left.
fn explained(caveat: &str) -> String {
    let until = caveat
        .split_once("_valid_until=")
        .and_then(|(_, until)| until.parse().ok());
    match until
        .map(Duration::from_secs)
        .and_then(|until| until.checked_sub(now()))
    {
        Some(left) => format!("{caveat} ({} from now)", minutes(left)),
        None => caveat.to_owned(),
    }
}

fn minutes(duration: Duration) -> String {
    format!("{} minutes", (duration.as_secs() + 30) / 60)
}

fn amount(msat: Option<u64>) -> String {
    match msat {
        Some(msat) if msat % 1000 == 0 => format!("{} sat", msat / 1000),
        Some(msat) => format!("{msat} msat"),
        None => "any amount".to_owned(),
    }
}

fn now() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "an invoice's expiry is shown as the time that is left"
    )]
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn try_it(network: &Network) {
    tell::heading("The shop stays open until Ctrl-C. Try it by hand, in another terminal:");
    tell::line("");
    for line in [
        format!("GATE={} PAYER={}", network.gate_url(), network.payer_url()),
        format!("curl -i $GATE{HEIGHT}"),
        String::new(),
        "field() { sed -n \"s/.*\\\"$1\\\": *\\\"\\([^\\\"]*\\)\\\".*/\\1/p\"; }".to_owned(),
        format!("OFFER=$(curl -s $GATE{HEIGHT})"),
        "PAID=$(echo \"$OFFER\" | field invoice | curl -s --data-binary @- $PAYER/pay)".to_owned(),
        "TOKEN=$(echo \"$OFFER\" | field macaroon):$(echo \"$PAID\" | field preimage)".to_owned(),
        format!("curl -H \"Authorization: L402 $TOKEN\" $GATE{HEIGHT}"),
        String::new(),
        "curl -d 1 $PAYER/mine".to_owned(),
        String::new(),
        format!("ADMIN={}", network.merchant.admin().url()),
        format!("KEY={}", network.merchant.admin().token_file().display()),
        "curl -H \"Authorization: Bearer $(cat $KEY)\" $ADMIN/status".to_owned(),
    ] {
        tell::line(&line);
    }
    tell::line("");
    tell::paragraph(&format!(
        "The merchant's log: {}",
        network.merchant.log().display()
    ));
}
