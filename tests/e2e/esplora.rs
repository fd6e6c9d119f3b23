//! The harness's Esplora server over a real bitcoind: what every other test of this program stands on.

use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{Address, Amount, BlockHash, Txid};
use regtest::bitcoind::{Bitcoind, parse_address};
use regtest::client::{Answer, Client};
use regtest::esplora::Esplora;
use regtest::folder;
use regtest::payer::{Payer, PayerOptions, Peer};
use regtest::port;
use regtest::wait::eventually;
use serde_json::{Value, json};
use std::time::Duration;

/// A chain, its server, and a client of it.
struct Chain {
    esplora: Esplora,
    bitcoind: Bitcoind,
    client: Client,
    /// Removed last.
    dir: tempfile::TempDir,
}

impl Chain {
    async fn start() -> Self {
        let dir = folder::temporary().unwrap();
        let bitcoind = Bitcoind::start(dir.path()).await.unwrap();
        let esplora = Esplora::start(&bitcoind).unwrap();
        Self {
            esplora,
            bitcoind,
            client: Client::new().unwrap(),
            dir,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        let url = format!("{}{path}", self.esplora.url());
        self.client.get(&url, None).await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    async fn rpc(&self, method: &str, params: Value) -> Value {
        self.bitcoind.rpc().call(method, params).await.unwrap()
    }

    async fn wallet_address(&self) -> Address {
        let address = self.rpc("getnewaddress", json!([])).await;
        parse_address(address.as_str().unwrap()).unwrap()
    }

    async fn send(&self, to: &Address, sat: u64) -> Txid {
        let payments = [(to.clone(), Amount::from_sat(sat))];
        self.bitcoind.send(&payments).await.unwrap()
    }

    async fn history(&self, of: &Address) -> Vec<Value> {
        let script = of.script_pubkey();
        let hash = sha256::Hash::hash(script.as_bytes());
        let history = self.json(&format!("/scripthash/{hash}/txs")).await;
        history.as_array().unwrap().clone()
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_transaction_is_seen_before_and_after_it_is_mined() {
    let chain = Chain::start().await;
    let address = chain.wallet_address().await;
    assert!(chain.history(&address).await.is_empty());

    let txid = chain.send(&address, 12_345).await;
    let tx = chain.json(&format!("/tx/{txid}")).await;
    assert_eq!(
        keys(&tx),
        [
            "fee", "locktime", "size", "status", "txid", "version", "vin", "vout", "weight"
        ]
    );
    assert_eq!(tx["status"], json!({ "confirmed": false }));
    let entry = chain.rpc("getmempoolentry", json!([txid])).await;
    let fee = Amount::from_btc(entry["fees"]["base"].as_f64().unwrap()).unwrap();
    assert_eq!(tx["fee"], fee.to_sat());
    assert_eq!(
        keys(&tx["vin"][0]),
        [
            "is_coinbase",
            "prevout",
            "scriptsig",
            "sequence",
            "txid",
            "vout",
            "witness"
        ]
    );
    assert_eq!(keys(&tx["vin"][0]["prevout"]), ["scriptpubkey", "value"]);
    assert_eq!(keys(&tx["vout"][0]), ["scriptpubkey", "value"]);
    let paid = tx["vout"].as_array().unwrap();
    let script = address.script_pubkey().to_hex_string();
    assert!(paid.contains(&json!({ "value": 12_345, "scriptpubkey": script })));
    assert_eq!(chain.history(&address).await, std::slice::from_ref(&tx));
    let (spent, vout) = (
        tx["vin"][0]["txid"].as_str().unwrap(),
        &tx["vin"][0]["vout"],
    );
    let outspend = chain.json(&format!("/tx/{spent}/outspend/{vout}")).await;
    assert_eq!(
        outspend,
        json!({ "spent": true, "txid": txid, "vin": 0, "status": { "confirmed": false } })
    );
    assert_eq!(
        chain
            .get(&format!("/tx/{txid}/merkleblock-proof"))
            .await
            .status,
        404
    );

    let block = chain.bitcoind.mine(1).await.unwrap()[0];
    let status = chain.json(&format!("/tx/{txid}/status")).await;
    let header = chain.rpc("getblockheader", json!([block])).await;
    assert_eq!(
        status,
        json!({ "confirmed": true, "block_height": 102, "block_hash": block, "block_time": header["time"] })
    );
    assert_eq!(chain.history(&address).await[0]["status"], status);
    let proof = chain.text(&format!("/tx/{txid}/merkleblock-proof")).await;
    assert_eq!(proof, chain.rpc("gettxoutproof", json!([[txid]])).await);
    let raw = chain.get(&format!("/tx/{txid}/raw")).await;
    assert_eq!(
        hex::encode(raw.body),
        chain.rpc("getrawtransaction", json!([txid])).await
    );
    let unspent = (0..2).find(|vout| paid[*vout]["value"] == 12_345).unwrap();
    let outspend = chain.json(&format!("/tx/{txid}/outspend/{unspent}")).await;
    assert_eq!(outspend, json!({ "spent": false }));
}

#[tokio::test]
async fn blocks_are_told_as_bitcoind_knows_them() {
    let chain = Chain::start().await;
    let tip = chain.text("/blocks/tip/hash").await;
    assert_eq!(tip, chain.rpc("getbestblockhash", json!([])).await);
    assert_eq!(chain.text("/blocks/tip/height").await, "101");
    assert_eq!(chain.text("/block-height/101").await, tip);
    assert_eq!(chain.get("/block-height/102").await.status, 404);

    let blocks = chain.json("/blocks").await;
    let blocks = blocks.as_array().unwrap();
    assert_eq!(blocks.len(), 10);
    let known = chain.rpc("getblock", json!([tip, 1])).await;
    assert_eq!(
        blocks[0]["bits"],
        u32::from_str_radix(known["bits"].as_str().unwrap(), 16).unwrap()
    );
    for (ours, theirs) in [
        ("id", "hash"),
        ("height", "height"),
        ("version", "version"),
        ("timestamp", "time"),
        ("tx_count", "nTx"),
        ("size", "size"),
        ("weight", "weight"),
        ("merkle_root", "merkleroot"),
        ("previousblockhash", "previousblockhash"),
        ("mediantime", "mediantime"),
        ("nonce", "nonce"),
        ("difficulty", "difficulty"),
    ] {
        assert_eq!(blocks[0][ours], known[theirs], "{ours}");
    }
    assert_eq!(blocks[0].as_object().unwrap().len(), 13);
    assert_eq!(chain.json(&format!("/block/{tip}")).await, blocks[0]);
    let header = chain.text(&format!("/block/{tip}/header")).await;
    assert_eq!(
        header,
        chain.rpc("getblockheader", json!([tip, false])).await
    );
    let parent = blocks[1]["id"].as_str().unwrap();
    assert_eq!(
        chain.json(&format!("/block/{parent}/status")).await,
        json!({ "in_best_chain": true, "height": 100, "next_best": tip })
    );
    assert_eq!(
        chain.json("/blocks/0").await[0]["previousblockhash"],
        Value::Null
    );
}

#[tokio::test]
async fn what_is_unknown_or_refused_says_so() {
    let chain = Chain::start().await;
    let unknown = "11".repeat(32);
    for path in ["", "/raw", "/status", "/merkleblock-proof"] {
        assert_eq!(
            chain.get(&format!("/tx/{unknown}{path}")).await.status,
            404,
            "{path}"
        );
    }
    assert_eq!(chain.get("/tx/nonsense").await.status, 400);
    assert_eq!(
        chain.get(&format!("/block/{unknown}/header")).await.status,
        404
    );
    assert_eq!(
        chain.json(&format!("/block/{unknown}/status")).await,
        json!({ "in_best_chain": false, "height": null, "next_best": null })
    );
    assert_eq!(chain.json("/fee-estimates").await, json!({}));

    let url = format!("{}/tx", chain.esplora.url());
    let post = |body: String| {
        chain
            .client
            .send(chain.client.request(http::Method::POST, &url).body(body))
    };
    let refusal = post("00".to_owned()).await.unwrap();
    assert_eq!(refusal.status, 400);
    assert!(
        refusal.text().contains("TX decode failed"),
        "{}",
        refusal.text()
    );
    let address = chain.wallet_address().await;
    let txid = chain.send(&address, 10_000).await;
    let hex = chain.text(&format!("/tx/{txid}/hex")).await;
    let again = post(hex).await.unwrap();
    assert_eq!(
        (again.status.as_u16(), again.text()),
        (200, txid.to_string())
    );
}

#[tokio::test]
async fn a_reorganisation_takes_back_what_was_confirmed() {
    let chain = Chain::start().await;
    let address = chain.wallet_address().await;
    let txid = chain.send(&address, 50_000).await;
    let stale: BlockHash = chain.bitcoind.mine(1).await.unwrap()[0];
    let confirmed = chain.json(&format!("/tx/{txid}/status")).await;
    assert_eq!(confirmed["block_hash"], json!(stale));

    chain.bitcoind.invalidate(stale).await.unwrap();
    assert_eq!(chain.text("/blocks/tip/height").await, "101");
    assert_eq!(
        chain.json(&format!("/tx/{txid}/status")).await,
        json!({ "confirmed": false })
    );
    assert_eq!(
        chain.history(&address).await[0]["status"],
        json!({ "confirmed": false })
    );
    assert_eq!(
        chain
            .get(&format!("/tx/{txid}/merkleblock-proof"))
            .await
            .status,
        404
    );
    assert_eq!(
        chain.json(&format!("/block/{stale}/status")).await,
        json!({ "in_best_chain": false, "height": null, "next_best": null })
    );
    assert_eq!(
        chain.get(&format!("/block/{stale}/header")).await.status,
        200
    );
    assert_eq!(chain.get(&format!("/block/{stale}")).await.status, 404);

    // To another address: mined within the same second, the first block would be the invalid one again.
    let elsewhere = chain.wallet_address().await.to_string();
    let branch = chain.rpc("generatetoaddress", json!([2, elsewhere])).await;
    assert_eq!(chain.text("/blocks/tip/hash").await, branch[1]);
    assert_eq!(chain.text("/block-height/102").await, branch[0]);
    let status = chain.json(&format!("/tx/{txid}/status")).await;
    assert_eq!(
        (&status["block_hash"], &status["block_height"]),
        (&branch[0], &json!(102))
    );
    assert_eq!(chain.history(&address).await.len(), 1);
}

#[tokio::test]
async fn a_stopped_server_refuses_and_comes_back_at_its_address() {
    let mut chain = Chain::start().await;
    let url = format!("{}/blocks/tip/height", chain.esplora.url());
    assert_eq!(chain.text("/blocks/tip/height").await, "101");
    chain.esplora.stop();
    // The client's connection was kept alive; it must be gone, too.
    assert!(chain.client.get(&url, None).await.is_err());
    chain.bitcoind.mine(1).await.unwrap();
    chain.esplora.start_again().unwrap();
    assert_eq!(chain.text("/blocks/tip/height").await, "102");
    assert_eq!(chain.esplora.requests(), 2);
}

#[tokio::test]
async fn two_nodes_that_know_the_chain_from_it_pay_each_other() {
    let chain = Chain::start().await;
    let start = |name: &str, listen| {
        Payer::start(PayerOptions {
            dir: chain.dir.path().join(name),
            esplora: chain.esplora.url(),
            listen,
        })
    };
    let address = port::free().unwrap();
    let alice = start("alice", None).await.unwrap();
    let bob = start("bob", Some(address)).await.unwrap();
    let payments = [
        (
            alice.new_address().await.unwrap(),
            Amount::from_sat(3_000_000),
        ),
        (bob.new_address().await.unwrap(), Amount::from_sat(100_000)),
    ];
    chain.bitcoind.send(&payments).await.unwrap();
    chain.bitcoind.mine(1).await.unwrap();
    tokio::try_join!(alice.sync(), bob.sync()).unwrap();
    let peer = Peer {
        node_id: bob.node_id(),
        address,
    };
    let funding = alice.open_channel(peer, 1_000_000).await.unwrap();
    chain.bitcoind.wait_for_mempool(funding).await.unwrap();
    chain.bitcoind.mine(6).await.unwrap();
    tokio::try_join!(alice.sync(), bob.sync()).unwrap();
    eventually("a usable channel", Duration::from_secs(10), || async {
        let channels = alice.channels();
        if channels.iter().any(|channel| channel.is_usable) {
            Ok(Some(()))
        } else {
            Err(channels.len())
        }
    })
    .await
    .unwrap();

    let invoice = bob.invoice(21_000, "a test").await.unwrap();
    let paid = alice.pay(&invoice).await.unwrap();
    assert_eq!(paid.fee_msat, 0);
    let hash = sha256::Hash::hash(&paid.preimage.0);
    let invoice = regtest::client::read_invoice(&invoice).unwrap();
    assert_eq!(hash, *invoice.payment_hash());
    assert!(
        alice.pay(&invoice.to_string()).await.is_err(),
        "an invoice is not paid twice"
    );

    assert_eq!(alice.close_channels().await.unwrap(), 1);
    eventually("the channel to close", Duration::from_secs(10), || async {
        match alice.channels_closed().len() {
            1 => Ok(Some(())),
            other => Err(other),
        }
    })
    .await
    .unwrap();
}
