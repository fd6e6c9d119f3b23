//! The log: whatever becomes of it, the shop goes on, and ends when it is told to.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use regtest::wait::eventually;
use serde_json::Value;

use crate::operations::DEADLINE;
use crate::shop::{HEIGHT, Shop};

/// A device that takes nothing, as a disk without room.
const FULL: &str = "/dev/full";

/// Nearly all that a pipe holds before somebody reads it.
const FILLING: usize = 60_000;

/// A shop whose log goes there from its start on. It says all it can.
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

/// Sells, loses lines meanwhile, sells again, and ends well.
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
async fn with_nobody_at_the_end_of_its_log_the_shop_sells_and_ends() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    sells_and_ends(shop_with(writer).await).await;
}

#[tokio::test]
async fn with_a_reader_of_its_log_that_hangs_the_shop_sells_and_ends() {
    let (reader, writer) = full_pipe();
    // Until the queue is full, too, which takes more than one shop says in a test, nothing is lost: it only waits.
    let mut shop = shop_with(writer).await;
    let credential = shop.buy(HEIGHT).await;
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.redeemed_sales(1).await;
    let ended = shop.network.merchant.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    drop(reader);
}

#[tokio::test]
async fn a_reader_who_goes_on_reads_how_it_went_on() {
    let (reader, writer) = full_pipe();
    let mut shop = shop_with(writer).await;
    shop.buy(HEIGHT).await;
    let read = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        lines.map_while(Result::ok).collect::<Vec<_>>()
    });
    let ended = shop.network.merchant.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    // The harness's own end of the pipe has to be closed, or it would be read for ever.
    let full = File::options().write(true).open(FULL).unwrap();
    shop.network.merchant.log_to(full);
    let read = read.join().unwrap();
    let says = |what: &str| read.iter().any(|line| line.contains(what));
    assert!(says("Settled"), "what happened while nobody read");
    assert!(says("Stopped"), "why it ended: {:?}", read.last());
}

#[test]
fn settings_that_do_not_hold_are_told_by_the_exit_code_where_nothing_can_be_written() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    run.args(["run", "--config", "/nowhere/tollhouse.toml"]);
    let full = || Stdio::from(File::options().write(true).open(FULL).unwrap());
    let ended = run.stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(ended.code(), Some(2));
}
