//! A power cut: the end of a file of the ledger's is missing, or was never written. It opens, or it is set aside and rebuilt,
//! and the log says which.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use tollhouse::account::ledger::record::{SaleRecord, Totals};
use tollhouse::account::ledger::{Ledger, Settlement};

use crate::damage::{a_full_account, folded};
use crate::support::books::{Books, PRICE_MSAT, account, payment, token, uses_left};
use crate::support::log::Log;

/// Places at which each file is torn, besides its last bytes.
const PLACES: usize = 24;

/// What is left of a file.
type Tear = fn(&mut Vec<u8>, usize);

const TEARS: [(&str, Tear); 3] = [
    ("the rest missing", |bytes, at| bytes.truncate(at)),
    // Files grow before their bytes arrive.
    ("the rest zero", |bytes, at| bytes[at..].fill(0)),
    // A sector that was being written holds anything.
    ("a sector garbled", |bytes, at| {
        let end = bytes.len().min(at + 512);
        bytes[at..end].fill(0xa5);
    }),
];

/// Some places of a file of that length: its last bytes, and spread over all of it.
fn places(length: usize) -> Vec<usize> {
    let last = (1..=3).map(|back| length.saturating_sub(back));
    let spread = (0..PLACES).map(|place| length * place / PLACES);
    spread.chain(last).collect()
}

/// Tears the file in a copy of this folder.
fn torn(intact: &Books, file: &str, tear: Tear, at: usize) -> Books {
    let torn = intact.copy();
    let path = torn.file(file);
    let mut bytes = std::fs::read(&path).unwrap();
    tear(&mut bytes, at);
    std::fs::write(path, bytes).unwrap();
    torn
}

fn length(books: &Books, file: &str) -> usize {
    std::fs::read(books.file(file)).unwrap().len()
}

/// Opens it; what the log says meanwhile.
fn open(books: &Books, what: &str) -> (Ledger, String) {
    let (log, listening) = Log::listen();
    let opened = books.when_free();
    drop(listening);
    (
        opened.unwrap_or_else(|error| panic!("{what}: {error:?}")),
        log.text(),
    )
}

async fn assert_whole(ledger: &Ledger, expected: &(Vec<SaleRecord>, Totals), what: &str) {
    assert_eq!(account(ledger), *expected, "{what}");
    assert_eq!(
        uses_left(ledger, &token(1, Some(3))).await,
        0,
        "{what}: revived"
    );
    assert_eq!(
        ledger.settle(payment(3)).unwrap(),
        Settlement::Known,
        "{what}"
    );
}

#[tokio::test]
async fn a_torn_database_opens_or_is_set_aside_and_rebuilt_and_the_log_says_which() {
    let expected = account(&a_full_account().await.open());
    for where_from in ["journal", "dump"] {
        let intact = a_full_account().await;
        if where_from == "dump" {
            folded(&intact);
        }
        let (mut opened, mut mended, mut rebuilt) = (0, 0, 0);
        for (how, tear) in TEARS {
            for at in places(length(&intact, "store/db")) {
                let what = format!("{how} from {at} on, with a {where_from}");
                let torn = torn(&intact, "store/db", tear, at);
                let (ledger, said) = open(&torn, &what);
                assert_whole(&ledger, &expected, &what).await;
                ledger.close().unwrap();
                match torn.set_aside().len() {
                    0 if said.contains("were missing in its store") => mended += 1,
                    0 => opened += 1,
                    _ => {
                        rebuilt += 1;
                        assert!(
                            said.contains("rebuilt from dump and journal"),
                            "{what}: {said}"
                        );
                    }
                }
            }
        }
        println!(
            "with a {where_from}: {opened} opened as they were, {mended} were brought up, {rebuilt} were rebuilt"
        );
        assert!(mended + rebuilt > 0, "a tear is seen");
    }
}

/// Every line that is whole counts, and nothing else: tears of the journal's last line are `ledger::journal`'s own tests.
#[tokio::test]
async fn a_torn_journal_costs_nothing_while_the_store_is_there_and_its_end_when_it_is_not() {
    let intact = a_full_account().await;
    let expected = account(&a_full_account().await.open());
    let lines = std::fs::read(intact.file("journal.log")).unwrap();
    for (how, tear) in TEARS {
        for at in places(lines.len()) {
            let what = format!("{how} from {at} on");
            let with_store = torn(&intact, "journal.log", tear, at);
            assert_whole(&open(&with_store, &what).0, &expected, &what).await;
            let alone = torn(&intact, "journal.log", tear, at);
            std::fs::remove_dir_all(alone.file("store")).unwrap();
            let (ledger, said) = open(&alone, &what);
            let whole = sales_in(&lines[..at]);
            let found = ledger.totals().count;
            assert!(
                found >= whole,
                "{what}: {found} sales of {whole} before the tear"
            );
            assert!(found <= 5, "{what}");
            if how == "a sector garbled" && at + 512 < lines.len() {
                assert!(said.contains("damaged lines"), "{what}: {said}");
            }
            // What was lost is told again by the node, and then it is there.
            for number in 1..=5 {
                ledger.settle(payment(number)).unwrap();
            }
            // Everything except the surplus, which may have been in the lost part.
            let found = ledger.totals();
            let sums = (found.count, found.amount_msat);
            assert_eq!(sums, (5, 5 * PRICE_MSAT), "{what}");
        }
    }
}

/// A dump is synced before it is given its name: only a disk that lies tears one.
#[tokio::test]
async fn a_torn_dump_costs_nothing_while_the_store_is_there_and_says_so_when_it_is_not() {
    let intact = a_full_account().await;
    folded(&intact);
    let expected = account(&a_full_account().await.open());
    let lines = std::fs::read(intact.file("dump.jsonl")).unwrap();
    for (how, tear) in TEARS {
        for at in places(lines.len()) {
            let what = format!("{how} from {at} on");
            let with_store = torn(&intact, "dump.jsonl", tear, at);
            assert_whole(&open(&with_store, &what).0, &expected, &what).await;
            let alone = torn(&intact, "dump.jsonl", tear, at);
            std::fs::remove_dir_all(alone.file("store")).unwrap();
            let (ledger, said) = open(&alone, &what);
            let found = ledger.totals().count;
            assert!(found >= sales_in(&lines[..at]), "{what}: {found} sales");
            let is_in_a_line = at > 0 && lines[at - 1] != b'\n';
            if found < 5 && is_in_a_line {
                assert!(said.contains("damaged lines"), "{what}: {said}");
            }
        }
    }
}

/// How many payments have a whole line here, which may be packed into one with others.
fn sales_in(lines: &[u8]) -> u64 {
    let whole = lines
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&lines[..whole]);
    let unpacked: String = text.lines().filter_map(unpacked).collect();
    let hashes: std::collections::BTreeSet<&str> = text
        .lines()
        .chain(unpacked.lines())
        .filter_map(|line| {
            line.split_once("{\"sale\":")?
                .1
                .split_once("\"payment_hash\":\"")
        })
        .filter_map(|(_, hash)| hash.get(..64))
        .collect();
    hashes.len() as u64
}

/// The lines that are packed into this one, read as the documentation says: `base64 -d | zcat`.
fn unpacked(line: &str) -> Option<String> {
    let packed = line.split_once("{\"packed\":\"")?.1.strip_suffix("\"}")?;
    let mut lines = String::new();
    GzDecoder::new(&BASE64_STANDARD.decode(packed).ok()?[..])
        .read_to_string(&mut lines)
        .ok()?;
    Some(lines)
}

/// The folder is nobody else's, so what is set aside stays where somebody finds it.
#[tokio::test]
async fn what_was_set_aside_is_whole() {
    let intact = a_full_account().await;
    let at = length(&intact, "store/db") / 2;
    for (how, tear) in TEARS {
        let torn = torn(&intact, "store/db", tear, at);
        let before = std::fs::read(torn.file("store/db")).unwrap();
        drop(open(&torn, how));
        for aside in torn.set_aside() {
            assert_eq!(read(&aside), before, "{how}");
        }
    }
}

fn read(aside: &Path) -> Vec<u8> {
    std::fs::read(aside.join("db")).unwrap()
}
