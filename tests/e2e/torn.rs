//! A power cut in the middle of what the node writes.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use crate::shop::{ARTICLE, Shop};

/// The frame of a write-ahead log: a header of 24 bytes and a page of 4,096.
const FRAME_BYTES: usize = 24 + 4_096;

impl Shop {
    fn node_file(&self, name: &str) -> PathBuf {
        self.network.merchant.data_dir().join("node").join(name)
    }

    /// Starts the merchant, which must end by itself; what it logged since then.
    async fn refuses_to_start(&mut self) -> String {
        let merchant = &mut self.network.merchant;
        let before = fs::read(merchant.log()).unwrap().len();
        merchant.restart().await.unwrap();
        let ended = merchant.wait_ended().await.unwrap();
        assert_eq!(ended.code(), Some(1), "it ends, and not by a panic");
        String::from_utf8_lossy(&fs::read(merchant.log()).unwrap()[before..]).into_owned()
    }
}

#[tokio::test]
async fn a_log_of_the_node_with_a_torn_end_opens_and_a_torn_database_ends_the_program() {
    let mut shop = Shop::open().await;
    let credential = shop.buy(ARTICLE).await;
    let (file, log) = (
        shop.node_file("ldk_node_data.sqlite"),
        shop.node_file("ldk_node_data.sqlite-wal"),
    );

    // A write that was under way, torn at some places: nothing of it was promised to anybody. Each time the last payment is
    // over, so that the kill costs no channel.
    for (sales, torn) in (1..).zip([1, 24, FRAME_BYTES / 2, FRAME_BYTES]) {
        shop.redeemed_sales(sales).await;
        shop.kill().await;
        let mut end = fs::File::options().append(true).open(&log).unwrap();
        end.write_all(&vec![0xa5; torn]).unwrap();
        drop(end);
        shop.come_back().await;
        shop.buy(ARTICLE).await;
    }

    // The database itself: no node is better than a new one.
    shop.redeemed_sales(5).await;
    // In good order, so that all of it is in the file: what was cut off might stand in the log, and is found there then.
    shop.network.merchant.terminate().await.unwrap();
    let whole = fs::read(&file).unwrap();
    let lines = fs::read(&log).unwrap_or_default();
    for left in [whole.len() / 2, 100, 0] {
        fs::write(&file, &whole[..left]).unwrap();
        let said = shop.refuses_to_start().await;
        assert!(said.contains("restore the newest backup"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), whole[..left], "left as it is");
        assert_eq!(fs::read(&log).unwrap_or_default(), lines, "and its log");
    }
    fs::remove_file(&file).unwrap();
    let said = shop.refuses_to_start().await;
    assert!(
        said.contains("to begin anew, move all of data_dir away"),
        "{said}"
    );

    // Put back, all is as before.
    fs::write(&file, &whole).unwrap();
    shop.come_back().await;
    assert_eq!(shop.get(ARTICLE, Some(&credential)).await.status, 200);
    shop.buy(ARTICLE).await;
}
