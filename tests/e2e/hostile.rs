//! Hostile Lightning peers: limits on what a stranger's channel, socket or payment can cost the merchant.

use std::time::Duration;

use http::{Method, StatusCode};
use regtest::client::{Answer, Challenge};
use regtest::hostile::{Flow, Ground, Stranger, Wire};
use regtest::merchant::MerchantOptions;
use regtest::payer::Peer;
use regtest::wait::eventually;
use serde_json::{Value, json};

/// A route with a high price, which stands out from fees when a payment is claimed back.
const ROUTES: &str = r#"
[[route]]
path = "/chain/*"
service = "chain"
price = "50000 sat"
grant = { requests = 10, valid = "1h" }
upstream = "{esplora}"
strip_prefix = true
"#;
/// The same route with a low price, for tests in which nothing is stolen.
pub(crate) const CHEAP: &str = r#"
[[route]]
path = "/chain/*"
service = "chain"
price = "10 sat"
grant = { requests = 10, valid = "1h" }
upstream = "{esplora}"
strip_prefix = true
"#;
/// The path of a resource that is sold.
pub(crate) const HEIGHT: &str = "/chain/blocks/tip/height";
/// The price of that resource.
const PRICE_SAT: u64 = 50_000;
/// More than the claims of one payment cost at this chain's fee rate, and less than a payment.
const FEES_SAT: u64 = 5_000;
/// The coins that the thief starts with.
const THIEF_SAT: u64 = 3_000_000;
/// The size of the thief's channel.
const CHANNEL_SAT: u64 = 1_000_000;
/// The time between two bytes on a dripping wire. A `commitment_signed` of 134 bytes then takes a second, and in
/// that second the receiving node reports the preimage that came before it.
const DRIP: Duration = Duration::from_millis(8);
/// The time from a usable channel to a challenge.
const CHALLENGE_DEADLINE: Duration = Duration::from_secs(15);
/// The time from a block to the transactions that a node broadcasts because of it.
const BROADCAST_DEADLINE: Duration = Duration::from_millis(150);
/// How many blocks before an HTLC's expiry LDK claims it on chain at the latest, plus one.
const CLAIMED_BEFORE: u32 = 37;
/// How many blocks after an HTLC's expiry its claim is in a block.
const SETTLED_AFTER: u32 = 12;
/// How many blocks the closing side waits for its own outputs, plus one.
const OWN_DELAY: u32 = 145;

/// A merchant with an empty wallet that sells by these routes.
pub(crate) async fn ground(routes: &str, settings: &str) -> Ground {
    let options = MerchantOptions {
        settings: settings.to_owned(),
        ..MerchantOptions::new(env!("CARGO_BIN_EXE_tollhouse"), "", routes)
    };
    Ground::start(options).await.unwrap()
}

/// The operator's status.
pub(crate) async fn status(ground: &Ground) -> Value {
    ground.merchant.admin().status().await.unwrap()
}

/// The merchant's log.
pub(crate) fn log(ground: &Ground) -> String {
    std::fs::read_to_string(ground.merchant.log()).unwrap()
}

/// The challenge for the resource, once the node can be paid; `None` if there is none in time.
async fn asks(ground: &Ground) -> Option<Answer> {
    let url = format!("{}{HEIGHT}", ground.merchant.url());
    let asked = eventually("a challenge", CHALLENGE_DEADLINE, || async {
        let answer = ground.client.get(&url, None).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        match answer.status {
            StatusCode::PAYMENT_REQUIRED => Ok(Some(answer)),
            status => Err(format!("{status}: {}", answer.text())),
        }
    });
    asked.await.ok()
}

/// Sends an order to the operator's listener and returns its answer.
async fn tells(ground: &Ground, path: &str, what: &Value) -> Answer {
    let admin = ground.merchant.admin();
    let request = ground
        .client
        .request(Method::POST, &format!("{}{path}", admin.url()))
        .bearer_auth(admin.token().unwrap())
        .json(what);
    ground.client.send(request).await.unwrap()
}

/// The outcome of a theft.
#[derive(Debug)]
#[expect(dead_code, reason = "some fields are only shown when a test fails")]
struct Theft {
    /// Whether the merchant accepted the channel.
    is_open: bool,
    /// Whether the merchant gave the thief a challenge.
    is_challenged: bool,
    /// Whether the thief got the resource before it claimed the payment back.
    is_served: bool,
    /// The thief's coins at the end.
    thief_sat: u64,
    /// The merchant's balance at the end, closed channels included.
    merchant_sat: u64,
    /// The operator's status at the end.
    status: Value,
}

impl Theft {
    /// Opens a channel, buys over it, keeps the preimage and cuts the merchant off.
    async fn commit(ground: &Ground) -> Self {
        Self::commit_after(ground, async || ()).await
    }

    /// The same, with an action between the channel and the purchase.
    async fn commit_after(ground: &Ground, meanwhile: impl AsyncFnOnce()) -> Self {
        let thief = ground.stranger("thief", THIEF_SAT).await.unwrap();
        Self::commit_by(&thief, ground, meanwhile).await
    }

    /// The same, by this thief.
    async fn commit_by(thief: &Stranger, ground: &Ground, meanwhile: impl AsyncFnOnce()) -> Self {
        let wire = Wire::to(ground.merchant.p2p()).unwrap();
        let at = Peer {
            address: wire.address(),
            ..ground.peer
        };
        let (mut is_challenged, mut is_served) = (false, false);
        let opened = ground.open_channel(thief, at, CHANNEL_SAT).await;
        meanwhile().await;
        if opened.is_ok()
            && let Some(answer) = asks(ground).await
        {
            is_challenged = true;
            is_served = steals(ground, thief, &wire, &answer.challenge().unwrap()).await;
            takes_back(ground, thief).await;
        }
        let status = status(ground).await;
        let merchant = |key: &str| status["node"]["balances"][key].as_u64().unwrap();
        Self {
            is_open: opened.is_ok(),
            is_challenged,
            is_served,
            thief_sat: thief.wallet_sat(),
            merchant_sat: merchant("onchain_total_sat")
                + merchant("lightning_sat")
                + merchant("closing_sat"),
            status,
        }
    }

    /// Whether the merchant has its money or gave nothing for it.
    fn has_failed(&self) -> bool {
        !self.is_served || self.merchant_sat >= PRICE_SAT - FEES_SAT
    }
}

/// Pays, and holds the wire between the preimage and the signature after it. Returns whether the thief is served.
async fn steals(ground: &Ground, thief: &Stranger, wire: &Wire, challenge: &Challenge) -> bool {
    wire.to_dialler(Flow::Drips(DRIP));
    let paid = thief.node.pay(&challenge.bolt11).await.unwrap();
    wire.both(Flow::Held);
    assert!(
        thief.takes_back_at().is_some(),
        "the signature has arrived: the payment cannot be claimed back"
    );
    let credential = challenge.credential(&paid);
    let url = format!("{}{HEIGHT}", ground.merchant.url());
    let served = eventually("the resource", CHALLENGE_DEADLINE, || async {
        let answer = ground.client.get(&url, Some(&credential)).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        match answer.status {
            StatusCode::OK => Ok(Some(())),
            status => Err(format!("{status}: {}", answer.text())),
        }
    });
    served.await.is_ok()
}

/// Mines past the payment's expiry until all money is in a wallet; block by block while a node may have to act.
async fn takes_back(ground: &Ground, thief: &Stranger) {
    let expiry = thief.takes_back_at().unwrap();
    let tip = ground
        .bitcoind
        .rpc()
        .call::<u32>("getblockcount", json!([]));
    let before = expiry.saturating_sub(CLAIMED_BEFORE + tip.await.unwrap());
    if before > 0 {
        ground.mine(before, &[thief]).await.unwrap();
    }
    for _ in 0..CLAIMED_BEFORE + SETTLED_AFTER {
        mines_one(ground, thief).await;
    }
    ground.mine(OWN_DELAY, &[thief]).await.unwrap();
    for _ in 0..SETTLED_AFTER {
        mines_one(ground, thief).await;
    }
}

/// Mines a block, and gives both nodes time to broadcast their reaction.
async fn mines_one(ground: &Ground, thief: &Stranger) {
    ground.mine(1, &[thief]).await.unwrap();
    let broadcast = eventually("a transaction", BROADCAST_DEADLINE, || async {
        let pending = ground
            .bitcoind
            .rpc()
            .call::<Value>("getrawmempool", json!([]));
        match pending.await {
            Ok(pending) if pending.as_array().is_some_and(|all| !all.is_empty()) => Ok(Some(())),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    });
    // After most blocks nothing is broadcast.
    let _ = broadcast.await;
}

#[tokio::test]
async fn a_payment_that_could_be_claimed_back_opens_nothing() {
    let ground = ground(ROUTES, "").await;
    let theft = Theft::commit(&ground).await;
    assert!(theft.has_failed(), "{theft:#?}");
}

#[tokio::test]
async fn over_a_channel_without_anchors_a_payment_is_claimed_with_an_empty_wallet() {
    let ground = ground(ROUTES, "node.reserve = \"25000 sat\"").await;
    let theft = Theft::commit(&ground).await;
    assert!(theft.is_open, "no channel without anchors: {theft:#?}");
    assert!(theft.is_challenged, "{theft:#?}");
    assert!(theft.merchant_sat >= PRICE_SAT - FEES_SAT, "{theft:#?}");
}

#[tokio::test]
async fn nothing_is_sold_over_a_strangers_channel_once_its_reserve_is_spent() {
    let ground = ground(ROUTES, "node.reserve = \"25000 sat\"").await;
    ground.fund_merchant(60_000).await.unwrap();
    let theft = Theft::commit_after(&ground, async || {
        let to = ground.bitcoind.mining_address();
        let asked = json!({ "address": to, "all": true, "reserve_too": true });
        let sent = tells(&ground, "/onchain/send", &asked).await;
        assert_eq!(sent.status, StatusCode::OK, "{}", sent.text());
        ground.bitcoind.mine(1).await.unwrap();
        ground.merchant.admin().sync().await.unwrap();
        let status = status(&ground).await;
        assert_eq!(status["node"]["balances"]["onchain_total_sat"], 0);
    })
    .await;
    assert!(theft.has_failed(), "{theft:#?}");
}

#[tokio::test]
async fn a_sale_that_a_trusted_peer_claimed_back_is_recorded_as_lost_and_opens_nothing() {
    let mut ground = ground(ROUTES, "").await;
    let thief = ground.stranger("thief", THIEF_SAT).await.unwrap();
    let trusts = format!("[node.peers]\ntrusted = [\"{}\"]\n", thief.node.node_id());
    ground.restart_merchant(&trusts).await.unwrap();
    let theft = Theft::commit_by(&thief, &ground, async || ()).await;
    assert!(theft.is_served && theft.merchant_sat == 0, "{theft:#?}");
    let sales = &theft.status["sales"];
    assert_eq!(sales["lost_msat"], PRICE_SAT * 1_000, "{sales}");
    let listed = ground.merchant.admin().sales(10).await.unwrap();
    assert!(listed[0]["lost_ms"].is_u64(), "{listed:?}");
    let log = log(&ground);
    assert!(
        log.contains("claimed on chain") && log.contains("Lost payment"),
        "{log}"
    );
    let revoked = ground
        .merchant
        .admin()
        .call(Method::GET, "/revocations")
        .await;
    let (status, revoked) = revoked.unwrap();
    assert_eq!(status, StatusCode::OK, "{revoked}");
    assert!(revoked.contains("taken back"), "{revoked}");
}

#[tokio::test]
async fn a_payment_without_an_invoice_that_is_repeated_after_it_was_forgotten_is_not_a_sale() {
    let settings = "[node.peers]\nkeysends_max = 1\n";
    let mut ground = ground(ROUTES, settings).await;
    ground.fund_merchant(200_000).await.unwrap();
    let friend = ground.stranger("friend", THIEF_SAT).await.unwrap();
    let opened = ground.open_channel(&friend, ground.peer, CHANNEL_SAT).await;
    opened.unwrap();
    let thief = ground.stranger("thief", THIEF_SAT).await.unwrap();
    let wire = Wire::to(ground.merchant.p2p()).unwrap();
    let at = Peer {
        address: wire.address(),
        ..ground.peer
    };
    ground.open_channel(&thief, at, CHANNEL_SAT).await.unwrap();
    // The merchant's channel monitor keeps the claim of this payment, as in a theft.
    wire.to_dialler(Flow::Drips(DRIP));
    thief.node.keysend(at, 1_000_000).await.unwrap();
    wire.both(Flow::Held);
    assert!(thief.takes_back_at().is_some(), "the signature has arrived");
    friend.node.keysend(ground.peer, 1).await.unwrap();
    let channels = status(&ground).await["node"]["channels"].clone();
    let thiefs = channels.as_array().unwrap().iter();
    let mut thiefs = thiefs.filter(|it| it["counterparty"] == thief.node.node_id().to_string());
    let id = thiefs.next().map(|it| it["channel_id"].as_str().unwrap());
    let id = id.unwrap();
    let path = format!("/channels/{id}/force-close");
    let closed = tells(&ground, &path, &json!({ "confirm": id })).await;
    assert_eq!(closed.status, StatusCode::ACCEPTED, "{}", closed.text());
    let told = |ground: &Ground| log(ground).matches("Claimed payment with ID").count();
    let before = told(&ground);
    ground.restart_merchant(settings).await.unwrap();
    eventually("a payment to be told again", CHALLENGE_DEADLINE, || async {
        Ok::<_, String>((told(&ground) > before).then_some(()))
    })
    .await
    .unwrap();
    ground.merchant.admin().sync().await.unwrap();
    let sales = status(&ground).await["sales"].clone();
    assert_eq!(sales["count"], 0, "{sales}");
}
