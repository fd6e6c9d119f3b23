//! The shop keeps selling whatever happens to its log, and stops on request.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use regtest::wait::eventually;
use serde_json::Value;

use crate::operations::DEADLINE;
use crate::shop::{HEIGHT, Shop};

/// A device that refuses every write, like a full disk.
const FULL: &str = "/dev/full";

/// The bytes that fill most of a pipe.
const FILLING: usize = 60_000;

/// Starts a shop that logs everything, at level trace, to this file from the start.
async fn shop_with(stderr: impl Into<OwnedFd>) -> Shop {
    let mut shop = Shop::open_with("", "[log]\nlevel = \"trace\"").await;
    shop.network.merchant.terminate().await.unwrap();
    shop.network.merchant.log_to(File::from(stderr.into()));
    shop.come_back().await;
    shop
}

/// A pipe that is nearly full from the start.
fn full_pipe() -> (PipeReader, File) {
    let (reader, writer) = pipe().unwrap();
    let mut writer = File::from(OwnedFd::from(writer));
    writer.write_all(&[b'x'; FILLING]).unwrap();
    (reader, writer)
}

async fn status(shop: &Shop) -> Value {
    shop.network.merchant.admin().status().await.unwrap()
}

async fn loses_lines(shop: &Shop) {
    eventually("that lines are lost", DEADLINE, || async {
        let dropped = status(shop).await["log_lines_dropped"].as_u64();
        dropped
            .filter(|count| *count > 0)
            .map(Some)
            .ok_or_else(|| format!("{dropped:?}"))
    })
    .await
    .unwrap();
}

/// Checks that the shop sells, loses lines, sells again, and ends with success.
async fn sells_and_ends(mut shop: Shop) {
    let credential = shop.buy(HEIGHT).await;
    loses_lines(&shop).await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.buy(HEIGHT).await;
    shop.redeemed_sales(2).await;
    let ended = shop.network.merchant.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn with_its_log_on_a_full_disk_the_shop_sells_and_ends() {
    let full = File::options().write(true).open(FULL).unwrap();
    sells_and_ends(shop_with(full).await).await;
}

#[tokio::test]
async fn with_a_closed_reader_of_its_log_the_shop_sells_and_ends() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    sells_and_ends(shop_with(writer).await).await;
}

#[tokio::test]
async fn with_a_stopped_reader_of_its_log_the_shop_sells_and_ends() {
    let (reader, writer) = full_pipe();
    // Lines are lost only once the queue is full, which takes more lines than this test logs.
    let mut shop = shop_with(writer).await;
    let credential = shop.buy(HEIGHT).await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.redeemed_sales(1).await;
    let ended = shop.network.merchant.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    drop(reader);
}

#[tokio::test]
async fn a_reader_that_resumes_gets_the_queued_lines() {
    let (reader, writer) = full_pipe();
    let mut shop = shop_with(writer).await;
    shop.buy(HEIGHT).await;
    let read = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines.map_while(Result::ok).collect::<Vec<_>>()
    });
    let ended = shop.network.merchant.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    // Closes the harness's own end of the pipe; otherwise the reader would never end.
    let full = File::options().write(true).open(FULL).unwrap();
    shop.network.merchant.log_to(full);
    let read = read.join().unwrap();
    let says = |what: &str| read.iter().any(|line| line.contains(what));
    assert!(
        says("Settled"),
        "the sale is logged although nobody read then"
    );
    assert!(
        says("Stopped"),
        "the reason for the end is logged: {:?}",
        read.last()
    );
}

#[test]
fn missing_settings_are_reported_by_the_exit_code_when_nothing_can_be_written() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    run.args(["run", "--config", "/nowhere/tollhouse.toml"]);
    let full = || Stdio::from(File::options().write(true).open(FULL).unwrap());
    let ended = run.stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(ended.code(), Some(2));
}
