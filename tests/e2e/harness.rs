//! The harness's own program: `regtest up` and `regtest demo`, which people and other programs' tests start.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use regtest::client::{Client, Credential};
use serde_json::Value;

/// The harness's program, beside the one it drives.
fn regtest() -> Command {
    let tollhouse = PathBuf::from(env!("CARGO_BIN_EXE_tollhouse"));
    let program = tollhouse.with_file_name("regtest");
    assert!(
        program.is_file(),
        "{} is not built: `cargo build` first, as `scripts/test e2e` does",
        program.display()
    );
    let mut command = Command::new(program);
    command.env("TOLLHOUSE_EXE", tollhouse);
    command
}

#[tokio::test]
async fn up_prints_one_line_that_says_where_everything_is_and_ends_with_its_input() {
    let mut up = regtest()
        .args(["up", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(up.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let places: Value = serde_json::from_str(&line).unwrap();
    let mut names: Vec<&str> = places
        .as_object()
        .unwrap()
        .keys()
        .map(|name| &**name)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "admin",
            "admin_token_file",
            "bitcoind_cookie",
            "bitcoind_p2p",
            "bitcoind_rpc",
            "esplora",
            "gate",
            "merchant_data_dir",
            "merchant_node_id",
            "merchant_p2p",
            "payer"
        ]
    );
    for file in ["admin_token_file", "bitcoind_cookie", "merchant_data_dir"] {
        assert!(
            PathBuf::from(places[file].as_str().unwrap()).exists(),
            "{file}"
        );
    }

    let gate = buys_by(&places).await;

    up.stdin.take().unwrap().flush().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line, and nothing else");
    assert!(up.wait().unwrap().success());
    assert!(
        Client::new().unwrap().get(&gate, None).await.is_err(),
        "nothing is left over"
    );
}

/// A whole purchase with nothing but what the line says, as a client in another language makes it. Returns where it was made.
async fn buys_by(places: &Value) -> String {
    let client = Client::new().unwrap();
    let at = |place: &str, path: &str| format!("{}{path}", places[place].as_str().unwrap());
    let url = at("gate", "/chain/blocks/tip/height");
    let challenge = client.challenge(&url).await.unwrap();
    let post = |url: String, body: String| {
        let client = client.clone();
        async move {
            client
                .send(client.request(http::Method::POST, &url).body(body))
                .await
                .unwrap()
        }
    };
    let paid = post(at("payer", "/pay"), challenge.bolt11.clone()).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    let paid: Value = serde_json::from_slice(&paid.body).unwrap();
    assert!(paid["fee_msat"].is_u64() && paid["ms"].is_u64());
    let credential = Credential {
        macaroon_base64: challenge.macaroon.clone(),
        preimage_hex: paid["preimage"].as_str().unwrap().to_owned(),
    };
    let bought = client.get(&url, Some(&credential)).await.unwrap();
    let height: u32 = bought.text().parse().unwrap();
    assert_eq!(post(at("payer", "/mine"), "3".to_owned()).await.status, 200);
    let bought = client.get(&url, Some(&credential)).await.unwrap();
    assert_eq!(bought.text().parse::<u32>().unwrap(), height + 3);
    for (path, body) in [("/pay", "nonsense"), ("/mine", "many"), ("/mine", "0")] {
        assert_eq!(post(at("payer", path), body.to_owned()).await.status, 400);
    }
    url
}

#[test]
fn the_demonstration_ends_with_the_resource_bought() {
    let output = regtest()
        .args(["demo", "--once"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{failed}");
    for part in [
        "402 Payment Required",
        "chain_requests=2",
        "the height of this chain",
        "used up",
        "The merchant's books",
    ] {
        assert!(told.contains(part), "`{part}` in: {told}");
    }
}

#[test]
fn at_ctrl_c_a_soak_ends_in_order_after_the_cycle_under_way() {
    let mut soak = regtest()
        .args(["soak", "--cycles", "1000", "--in-flight", "2"])
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(soak.stderr.take().unwrap()).lines();
    let mut until = |text: &str| {
        let line = progress.find(|line| line.as_ref().unwrap().contains(text));
        line.unwrap_or_else(|| panic!("it ended before it said: {text}"))
            .unwrap()
    };
    until("cycle 1:");
    // As a terminal does: to the group of what it runs.
    let sent = Command::new("sh")
        .args(["-c", r#"kill -s INT -- "-$0""#, &soak.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    until("the last one");
    let output = soak.wait_with_output().unwrap();
    assert!(output.status.success());
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cycles = outcome["cycles"].as_u64().unwrap();
    assert!((1..1000).contains(&cycles), "{outcome}");
    assert_eq!(
        (&outcome["lost"], &outcome["unbalanced"]),
        (&0.into(), &0.into())
    );
}
