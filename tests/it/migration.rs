//! A store that an older program left behind is read by this one, and nothing in it is lost.

use tollhouse::account::ledger::{Overrun, Settlement};
use tollhouse::protocol::l402::caveat::Allowance;

use crate::activations::activation;
use crate::support::books::{Books, account, challenge, payment, token, totals};

/// Format 1's records, field by field in their order.
type Challenge = (
    [u8; 32],
    [u8; 32],
    &'static str,
    &'static str,
    u64,
    u64,
    u64,
);
type Sale = (
    ([u8; 32], u64, u64, Option<u64>),
    (Option<&'static str>, Option<&'static str>, Option<[u8; 32]>),
    (Option<u64>, u64, Option<u64>, u64),
);
type Token = (
    ([u8; 32], [u8; 32], &'static str, Option<u64>),
    (u64, u64, u64, Option<u64>),
);

fn version_1(record: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_extend(record, vec![1]).unwrap()
}

fn write_format_1(store: &std::path::Path, now_ms: u64) {
    let db = sled::open(store).unwrap();
    db.insert("format", &1_u32.to_be_bytes()).unwrap();
    db.insert("complete", &0_u64.to_be_bytes()).unwrap();
    let (hash, id) = ([1; 32], [1; 32]);
    let sale: Sale = (
        (hash, 10_000, 0, Some(10_000)),
        (Some("chain"), Some("/chain/*"), Some(id)),
        (Some(now_ms - 2), now_ms - 1, Some(now_ms), 7),
    );
    let tree = |name: &str| db.open_tree(name).unwrap();
    tree("sales").insert(hash, version_1(&sale)).unwrap();
    let time_key = [&(now_ms - 1).to_be_bytes()[..], &hash].concat();
    tree("sales_by_time")
        .insert(time_key, version_1(&()))
        .unwrap();
    tree("totals")
        .insert("sales", version_1(&(1_u64, 10_000_u64)))
        .unwrap();
    let used: Token = ((hash, id, "chain", None), (now_ms, now_ms, 4, None));
    tree("tokens")
        .insert([hash, id].concat(), version_1(&used))
        .unwrap();
    let open: Vec<Challenge> = vec![
        (
            [2; 32],
            [2; 32],
            "chain",
            "/chain/*",
            10_000,
            now_ms,
            now_ms + 600_000,
        ),
        (
            [3; 32],
            [3; 32],
            "chain",
            "/chain/*",
            10_000,
            now_ms,
            now_ms + 600_000,
        ),
    ];
    tree("challenges")
        .insert(0_u64.to_be_bytes(), version_1(&open))
        .unwrap();
    drop(db);
}

#[tokio::test]
async fn a_store_of_format_1_keeps_its_sales_its_counts_and_its_challenges() {
    let books = Books::new();
    let store = books.folder().join("store");
    std::fs::create_dir_all(books.folder()).unwrap();
    write_format_1(&store, books.clock.unix_ms());
    let ledger = books.open();
    let (sales, totals) = account(&ledger);
    assert_eq!((totals.count, totals.amount_msat), (1, 10_000));
    assert_eq!(sales[0].token_id, Some([1; 32]));
    assert_eq!((&sales[0].grant, &sales[0].rate), (&None, &None));
    let five = token(1, Some(5));
    let last = ledger
        .reserve(&five, "chain", Overrun::Serve, None)
        .await
        .unwrap();
    assert_eq!(last.as_ref().unwrap().left().requests, Some(0));
    let bytes = tollhouse::protocol::l402::Verified {
        allowance: Allowance {
            bytes_max: Some(9),
            ..Allowance::default()
        },
        ..five
    };
    let unmetered = ledger
        .reserve(&bytes, "chain", Overrun::Serve, None)
        .await
        .unwrap();
    assert_eq!(unmetered.unwrap().left().bytes, Some(9));
    for number in [2, 3] {
        let Settlement::New(sale) = ledger.settle(payment(number)).unwrap() else {
            panic!("no new sale");
        };
        assert_eq!(sale.route.as_deref(), Some("/chain/*"));
    }
}

#[test]
fn a_store_of_format_2_keeps_its_sales_and_has_room_for_activations() {
    let books = Books::new();
    let ledger = books.open();
    ledger.settle(payment(1)).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let db = books.database();
    db.insert("format", &2_u32.to_be_bytes()).unwrap();
    assert!(db.drop_tree("activations").unwrap());
    drop(db);
    let ledger = books.open();
    assert_eq!(ledger.totals(), totals(1, 10_000));
    ledger
        .open_activation(&activation(9, &books.clock))
        .unwrap();
    assert_eq!(ledger.activations(10).unwrap().0.len(), 1);
}

#[test]
fn a_store_of_format_3_keeps_its_activations_which_buy_nothing() {
    let books = Books::new();
    let ledger = books.open();
    ledger
        .open_activation(&activation(9, &books.clock))
        .unwrap();
    let before = ledger.activations(10).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let db = books.database();
    db.insert("format", &3_u32.to_be_bytes()).unwrap();
    let tree = db.open_tree("activations").unwrap();
    let record = tree.get([9; 32]).unwrap().unwrap();
    // As it was: of version 1, and without what is bought, which stands at its end.
    let (rest, end) = record[1..].split_at(record.len() - 2);
    assert_eq!((record[0], end), (2, &[0][..]));
    tree.insert([9; 32], [&[1], rest].concat()).unwrap();
    drop((tree, db));
    assert_eq!(books.open().activations(10).unwrap(), before);
}

#[test]
fn a_store_of_format_4_gets_the_sum_of_the_surplus_in_its_sales() {
    let books = Books::new();
    let ledger = books.open();
    for number in 1..=2 {
        ledger.challenge(challenge(number, &books.clock));
        ledger.settle(payment(number)).unwrap();
        ledger.settle(payment(number)).unwrap();
    }
    let before = account(&ledger);
    assert_eq!(before.1.surplus_msat, 20_000);
    ledger.close().unwrap();
    drop(ledger);
    let db = books.database();
    db.insert("format", &4_u32.to_be_bytes()).unwrap();
    let rewrite = |tree: &str, version: u8, turn: &dyn Fn(&[u8]) -> Vec<u8>| {
        let tree = db.open_tree(tree).unwrap();
        for entry in &tree {
            let (key, value) = entry.unwrap();
            assert_eq!(value[0], version + 1);
            tree.insert(key, [&[version], turn(&value[1..]).as_slice()].concat())
                .unwrap();
        }
    };
    // As format 4 wrote them. Sales lack the expiry, which takes seven bytes, and the loss, which takes one. Totals
    // lack the last two sums, which take three bytes and one.
    rewrite("sales", 2, &|sale| sale[..sale.len() - 8].to_vec());
    rewrite("totals", 1, &|totals| totals[..totals.len() - 4].to_vec());
    drop(db);
    let ledger = books.open();
    let after = account(&ledger);
    assert_eq!(after.1, before.1);
    assert_eq!(after.0.len(), 2);
    for sale in after.0 {
        assert_eq!((sale.surplus_msat, sale.expires_ms), (10_000, None));
        assert_eq!(sale.lost_ms, None);
    }
}
