//! What the operator has the node do, through the commands: money in and out by hand, channels, peers, and tokens that may do
//! less than everything.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use bitcoin::hashes::{Hash as _, sha256};
use http::Method;
use regtest::network::Network;
use regtest::wait::eventually;
use serde_json::Value;

use crate::shop::{HEIGHT, Shop};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One of the program's commands, against the program of these settings; standard output is a pipe, so it prints JSON.
pub(crate) async fn tollhouse_at(settings: &Path, arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_tollhouse"))
        .args(arguments)
        .arg("--config")
        .arg(settings)
        .env_remove(regtest::environment::TOLLHOUSE_EXE)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap()
}

pub(crate) async fn tollhouse(network: &Network, arguments: &[&str]) -> Output {
    tollhouse_at(network.merchant.settings_file(), arguments).await
}

/// The answer of a command that must be done.
pub(crate) async fn done(network: &Network, arguments: &[&str]) -> Value {
    let output = tollhouse(network, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A command that must end with this code and say this.
pub(crate) async fn not_done(network: &Network, arguments: &[&str], code: i32, why: &str) {
    let output = tollhouse(network, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(why), "{arguments:?}: `{why}` in: {said}");
}

pub(crate) fn sat(answer: &Value, name: &str) -> u64 {
    answer[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// Has the payer lend the merchant a hundred thousand satoshi by an invoice, which buy nothing.
pub(crate) async fn lent(network: &Network) -> Value {
    let arguments = ["invoice", "100000 sat", "--description", "a loan"];
    let invoice = done(network, &arguments).await;
    assert_eq!(invoice["payable_now"], true);
    let paid = network.payer.pay(invoice["bolt11"].as_str().unwrap());
    paid.await.unwrap();
    eventually("the loan to be there", DEADLINE, || async {
        let channels = done(network, &["channels", "list"]).await;
        let sendable_msat = channels["channels"][0]["outbound_msat"].as_u64().unwrap();
        // The channel's reserve of a hundredth cannot be sent.
        Ok::<_, String>((sendable_msat == 80_000_000).then_some(()))
    })
    .await
    .unwrap();
    invoice
}

#[tokio::test]
async fn on_chain_money_goes_where_it_is_sent_and_nowhere_else() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let before = done(network, &["balance"]).await;
    // The customer's channel has anchors, and so a reserve, if the coins were seen before it was opened.
    let (spendable, reserved) = (sat(&before, "spendable_sat"), sat(&before, "reserved_sat"));
    assert_eq!(spendable + reserved, 10_000_000);
    let elsewhere = network.bitcoind.mining_address().to_string();

    let (start, last) = elsewhere.split_at(elsewhere.len() - 1);
    let mistyped = format!("{start}{}", if last == "x" { "q" } else { "x" });
    not_done(
        network,
        &["send", &mistyped, "50000"],
        4,
        "no bitcoin address",
    )
    .await;
    let mainnet = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq";
    not_done(network, &["send", mainnet, "50000"], 4, "nothing was sent").await;
    not_done(
        network,
        &["send", &elsewhere, "10000001"],
        4,
        &format!("are more than the {spendable} sat"),
    )
    .await;
    not_done(network, &["send", &elsewhere, "0"], 4, "zero").await;
    not_done(
        network,
        &["send", &elsewhere, "2500 msat"],
        2,
        "whole satoshi",
    )
    .await;
    for amount in ["2000,50 sat", "1,5 sat", "20,00", ",5", "5,", "1__000 sat"] {
        not_done(network, &["send", &elsewhere, amount], 2, "write").await;
    }
    not_done(
        network,
        &["send", &elsewhere, "5000", "--fee-rate", "5000"],
        4,
        "1 to 1,000 sat",
    )
    .await;

    let sent = done(
        network,
        &["send", &elsewhere, "50000 sat", "--fee-rate", "2"],
    )
    .await;
    let txid = sent["txid"].as_str().unwrap().parse().unwrap();
    network.bitcoind.wait_for_mempool(txid).await.unwrap();
    network.mine(1).await.unwrap();
    let after = done(network, &["balance"]).await;
    let cost = 10_000_000 - 50_000 - sat(&after, "total_sat");
    // One or two inputs and two outputs at 2 sat per virtual byte.
    assert!((200..600).contains(&cost), "{cost}");

    let fresh = done(network, &["address", "--new"]).await;
    let usual = done(network, &["address"]).await;
    assert_ne!(fresh["address"], usual["address"]);
    let all = done(network, &["send", &elsewhere, "--all"]).await;
    let txid = all["txid"].as_str().unwrap().parse().unwrap();
    network.bitcoind.wait_for_mempool(txid).await.unwrap();
    network.mine(1).await.unwrap();
    let empty = done(network, &["balance"]).await;
    assert_eq!(sat(&empty, "total_sat"), reserved);
}

#[tokio::test]
async fn invoices_by_hand_are_paid_both_ways_and_are_no_sales() {
    let shop = Shop::open().await;
    let network = &shop.network;
    for character in ["\u{1b}", "\n", "\u{202e}", "\u{e0041}", "\u{200b}"] {
        let description = format!("wood{character}");
        let arguments = ["invoice", "1 sat", "--description", &description];
        not_done(
            network,
            &arguments,
            4,
            "the description is not valid: the character U+",
        )
        .await;
    }
    // In: a hundred thousand satoshi that buy nothing.
    let invoice = lent(network).await;
    shop.buy(HEIGHT).await;
    assert_eq!(shop.redeemed_sales(1).await[0]["amount_msat"], 10_000);

    // Out: once.
    let theirs = network.payer.invoice(20_000_000, "wood").await.unwrap();
    let paid = done(network, &["pay", &theirs]).await;
    let preimage = hex::decode(paid["preimage"].as_str().unwrap()).unwrap();
    let hash = sha256::Hash::hash(&preimage).to_string();
    assert_eq!(paid["hash"], *hash, "{paid}");
    let listed = done(network, &["payments"]).await;
    assert!(
        !listed
            .to_string()
            .contains(paid["preimage"].as_str().unwrap()),
        "it is for who pays"
    );
    assert_eq!(
        (&paid["status"], &paid["amount_msat"]),
        (&"succeeded".into(), &20_000_000.into())
    );
    assert_eq!(paid["fee_msat"], 0, "the payer is the peer");
    not_done(network, &["pay", &theirs], 4, "paid once").await;
    let own = invoice["bolt11"].as_str().unwrap();
    not_done(network, &["pay", own], 4, "this very node").await;
    not_done(
        network,
        &["pay", "lnbcrt1nonsense"],
        4,
        "neither a BOLT 11 invoice",
    )
    .await;
    let dear = network.payer.invoice(500_000_000, "gold").await.unwrap();
    not_done(
        network,
        &["pay", &dear],
        4,
        "that the channels can send now",
    )
    .await;
    not_done(
        network,
        &["pay", &dear, "--amount", "1 sat"],
        4,
        "asks for 500000000 msat",
    )
    .await;
    let sum = network.merchant.admin().status().await.unwrap();
    assert_eq!(sum["sales"]["count"], 1, "neither of the two is a sale");
}

/// A file with an access token made by these arguments.
pub(crate) async fn access(network: &Network, dir: &Path, arguments: &[&str]) -> PathBuf {
    let made = done(network, &[&["access"], arguments].concat()).await;
    let file = dir.join(arguments.join("-").replace([' ', '/'], "_"));
    tollhouse::base::secret_file::write_new(&file, made["token"].as_str().unwrap()).unwrap();
    file
}

#[tokio::test]
async fn who_may_only_bring_money_in_draws_ten_addresses_at_most() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let dir = regtest::folder::temporary().unwrap();
    // An address costs a request with each look at the chain, for good.
    let invoices = access(network, dir.path(), &["invoices"]).await;
    let draw = [
        "address",
        "--new",
        "--token-file",
        invoices.to_str().unwrap(),
    ];
    let mut drawn = std::collections::BTreeSet::new();
    for _ in 0..10 {
        drawn.insert(done(network, &draw).await["address"].to_string());
    }
    assert_eq!(drawn.len(), 10, "each is another one");
    not_done(network, &draw, 4, "10 addresses were drawn").await;
    done(network, &draw[..2]).await;
}

#[tokio::test]
async fn an_access_token_may_do_what_it_says_and_spend_no_more_than_it_says() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let dir = regtest::folder::temporary().unwrap();
    lent(network).await;

    let read = access(network, dir.path(), &["read"]).await;
    let read = ["--token-file", read.to_str().unwrap()];
    done(network, &[&["status"][..], &read].concat()).await;
    not_done(
        network,
        &[&["invoice", "1 sat"][..], &read].concat(),
        4,
        "`invoices`",
    )
    .await;
    not_done(network, &[&["reload"][..], &read].concat(), 4, "`admin`").await;
    not_done(
        network,
        &[&["access", "read"][..], &read].concat(),
        4,
        "`admin`",
    )
    .await;

    // Taken back: this one only, and at once.
    let listed = done(network, &["access", "list"]).await;
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1, "{listed}");
    let revoke = ["access", "revoke", id];
    not_done(network, &[&revoke[..], &read].concat(), 4, "`admin`").await;
    done(network, &revoke).await;
    not_done(
        network,
        &[&["status"][..], &read].concat(),
        4,
        "an access token that is good",
    )
    .await;
    not_done(network, &revoke, 4, "it was revoked before").await;
    not_done(network, &["access", "revoke", "ab"], 4, "64 hex digits").await;

    let spend = access(network, dir.path(), &["spend", "--spend-max", "5000 sat"]).await;
    let spend = ["--token-file", spend.to_str().unwrap()];
    let pay = |msat| {
        let spend = &spend;
        async move {
            let theirs = network.payer.invoice(msat, "wood").await.unwrap();
            let arguments = [
                "pay".to_owned(),
                theirs,
                "--fee-max".to_owned(),
                "0".to_owned(),
            ];
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = tollhouse(network, &[&arguments[..], &spend[..]].concat()).await;
            (
                output.status.code(),
                String::from_utf8(output.stderr).unwrap(),
            )
        }
    };
    assert_eq!(pay(3_000_000).await.0, Some(0));
    let (code, said) = pay(2_000_001).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("2000000 msat that are left"), "{said}");
    assert_eq!(pay(2_000_000).await.0, Some(0));
    assert_eq!(pay(1).await.0, Some(4));
    let elsewhere = network.bitcoind.mining_address().to_string();
    let send = [&["send", &elsewhere, "1000"][..], &spend].concat();
    not_done(network, &send, 4, "over Lightning only").await;
}

#[tokio::test]
async fn channels_are_opened_and_closed_by_hand() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let payer = network.payer.node_id().to_string();
    let list = || async {
        let channels = done(network, &["channels", "list"]).await;
        channels["channels"].as_array().unwrap().clone()
    };
    not_done(
        network,
        &["channels", "open", "nobody", "200000"],
        4,
        "ID@HOST:PORT",
    )
    .await;
    not_done(
        network,
        &["channels", "open", &payer, "20000000"],
        4,
        "are more than",
    )
    .await;
    let stranger = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619@127.0.0.1:1";
    not_done(
        network,
        &["channels", "open", stranger, "200000"],
        5,
        "takes no connection",
    )
    .await;

    done(network, &["channels", "open", &payer, "200000 sat"]).await;
    let opened = eventually("a channel of ours to be usable", DEADLINE, || async {
        network
            .mine(1)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let channels = list().await;
        let ours = channels
            .iter()
            .find(|channel| channel["capacity_sat"] == 200_000);
        Ok::<_, String>(ours.filter(|channel| channel["usable"] == true).cloned())
    })
    .await
    .unwrap();
    let id = opened["channel_id"].as_str().unwrap();
    not_done(network, &["channels", "force-close", id], 2, "fees, after").await;
    assert_eq!(list().await.len(), 2, "it was only asked what it costs");
    not_done(
        network,
        &["channels", "close", &"0".repeat(64)],
        4,
        "there is no channel",
    )
    .await;
    done(network, &["channels", "close", id]).await;
    eventually("it to be closed", DEADLINE, || async {
        Ok::<_, String>((list().await.len() == 1).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_listener_describes_itself_and_commands_say_when_nobody_is_there() {
    let mut shop = Shop::open().await;
    let (status, document) = shop
        .network
        .merchant
        .admin()
        .call(Method::GET, "/openapi.json")
        .await
        .unwrap();
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for path in [
        "/status",
        "/payments",
        "/channels/{channel_id}/force-close",
        "/access",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let made = tollhouse(&shop.network, &["backup", "create"]).await;
    assert!(made.status.success(), "{made:?}");
    let findings = done(&shop.network, &["doctor"]).await;
    let bad: Vec<_> = findings["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["grade"] == "bad")
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    shop.network.merchant.terminate().await.unwrap();
    not_done(&shop.network, &["status"], 3, "is the program running?").await;
}

/// An invoice over ten satoshi of somebody who does not exist, made at this time and good for an hour.
pub(crate) fn invoice_of_nobody(made_secs: u64, payment_hash: sha256::Hash) -> String {
    let secret = bitcoin::secp256k1::SecretKey::from_slice(&[7; 32]).unwrap();
    let secp = bitcoin::secp256k1::Secp256k1::new();
    let invoice = lightning_invoice::InvoiceBuilder::new(lightning_invoice::Currency::Regtest)
        .description("wood".to_owned())
        .payment_hash(payment_hash)
        .payment_secret(lightning_invoice::PaymentSecret([4; 32]))
        .duration_since_epoch(Duration::from_secs(made_secs))
        .min_final_cltv_expiry_delta(42)
        .amount_milli_satoshis(10_000)
        .build_signed(|message| secp.sign_ecdsa_recoverable(message, &secret));
    invoice.unwrap().to_string()
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_what_to_do() {
    let shop = Shop::open().await;
    let network = &shop.network;
    let expired = invoice_of_nobody(1_700_000_000, sha256::Hash::from_byte_array([3; 32]));
    not_done(
        network,
        &["pay", &expired],
        4,
        "ask the payee for another one",
    )
    .await;
    let mainnet = "lnbc20m1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqhp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqsfpp3qjmp7lwpagxun9pygexvgpjdc4jdj85fr9yq20q82gphp2nflc7jtzrcazrra7wwgzxqc8u7754cdlpfrmccae92qgzqvzq2ps8pqqqqqqpqqqqq9qqqvpeuqafqxu92d8lr6fvg0r5gv0heeeqgcrqlnm6jhphu9y00rrhy4grqszsvpcgpy9qqqqqqgqqqqq7qqzq9qrsgqdfjcdk6w3ak5pca9hwfwfh63zrrz06wwfya0ydlzpgzxkn5xagsqz7x9j4jwe7yj7vaf2k9lqsdk45kts2fd0fkr28am0u4w95tt2nsq76cqw0";
    not_done(network, &["pay", mainnet], 4, "this node's network").await;
    not_done(
        network,
        &["invoice", "1 sat", "--expiry", "1s"],
        4,
        "a minute at least",
    )
    .await;
    not_done(network, &["invoice", "1 sat", "--expiry", "1w"], 2, "`90s`").await;
    not_done(
        network,
        &["peers", "connect", "02ff@127.0.0.1:1"],
        4,
        "66 hex digits",
    )
    .await;
    not_done(
        network,
        &["access", "read", "--spend-max", "5 sat"],
        4,
        "goes with the scope",
    )
    .await;
    // A peer that takes the connection and says nothing.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = format!(
        "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619@{}",
        deaf.local_addr().unwrap()
    );
    // LDK itself gives such a peer up after ten to twenty seconds; where it is built without optimisation, after a minute.
    let silent = async |arguments: &[&str]| {
        let output = tollhouse(network, arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        let words = ["says nothing on it", "no answer within 30s"];
        assert!(words.iter().any(|words| said.contains(words)), "{said}");
    };
    let connect = ["peers", "connect", &peer];
    let open = ["channels", "open", &peer, "200000"];
    tokio::join!(silent(&connect), silent(&open));
    let balance = done(network, &["balance"]).await;
    assert_eq!(sat(&balance, "spendable_sat"), 10_000_000);
    shop.buy(HEIGHT).await;
}
