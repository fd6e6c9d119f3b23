//! A year of a thousand sales a day in the ledger: what it takes on the disk, how long the ledger takes to open, and how long
//! to read all of it out. `cargo bench --bench year -- FILE` writes that as JSON; `scripts/bench` reads it.
//!
//! The sales are put into the store as the program would have left them there (each with the token that was redeemed), and
//! folded into a dump by the program itself. A real journal besides grows to at most twice the dump before it is folded.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tollhouse::account::ledger::record::{SaleRecord, TokenRecord, Totals};
use tollhouse::account::ledger::{self, Ledger, LedgerError, SALES_PAGE_MAX};
use tollhouse::account::store::{Store, StoreError};
use tollhouse::base::clock::Clock;

/// Sales of a year.
const SALES: u32 = 365 * 1_000;
/// Time between two of them, in milliseconds.
const EVERY_MS: u64 = 86_400;
/// When the year begins, Unix seconds.
const BEGINS_SECS: u64 = 1_760_000_000;
/// What one costs, in msat.
const PRICE_MSAT: u64 = 10_000;
/// How often each time is taken; the median counts.
const ROUNDS: usize = 3;
/// A journal of this length is folded.
const FOLD_BYTES: usize = 16 * 1024 * 1024;

fn main() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let config = ledger::Config {
        folder: folder.path().join("ledger"),
        challenges_max: 1_000,
        quotas_max: 1_000,
    };
    let clock = Clock::fixed(BEGINS_SECS + 365 * 86_400);
    fill(&config, &clock);
    fold(&config, &clock);
    let disk_mb = megabytes(&config.folder);
    let (mut starts, mut exports) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (ledger, took) = open(&config, &clock);
        starts.push(took);
        let begun = Instant::now();
        assert_eq!(export(&ledger), u64::from(SALES), "every sale is read out");
        exports.push(begun.elapsed());
        ledger.close().expect("the disk takes it");
    }
    let result = serde_json::json!({
        "disk_mb": disk_mb,
        "start_ms": median_ms(starts),
        "export_ms": median_ms(exports),
    });
    // Cargo adds options of its own.
    let file = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    match file {
        Some(file) => fs::write(file, format!("{result}\n")).expect("the file can be written"),
        None => writeln!(io::stdout(), "{result}").expect("somebody reads it"),
    }
}

/// Writes the year into the store.
fn fill(config: &ledger::Config, clock: &Clock) {
    drop(open(config, clock));
    let store = when_free(|| Store::open(&config.folder.join("store")));
    let tree = "the tree is there";
    let sales = store.tree::<SaleRecord>("sales").expect(tree);
    let by_time = store.tree::<()>("sales_by_time").expect(tree);
    let tokens = store.tree::<TokenRecord>("tokens").expect(tree);
    let totals = store.tree::<Totals>("totals").expect(tree);
    let numbers: Vec<u32> = (0..SALES).collect();
    let room = "there is room on the disk";
    for numbers in numbers.chunks(5_000) {
        let records: Vec<_> = numbers.iter().map(|number| sale(*number)).collect();
        let of_sales: Vec<_> = records
            .iter()
            .map(|sale| (sale.payment_hash.to_vec(), sale.clone()))
            .collect();
        sales.put_all(&of_sales).expect(room);
        let of_times: Vec<_> = records.iter().map(|sale| (sale.time_key(), ())).collect();
        by_time.put_all(&of_times).expect(room);
        let of_tokens: Vec<_> = records.iter().map(token).collect();
        tokens.put_all(&of_tokens).expect(room);
    }
    let sum = Totals {
        count: u64::from(SALES),
        amount_msat: u64::from(SALES) * PRICE_MSAT,
        surplus_msat: 0,
        lost_msat: 0,
    };
    totals.put(b"sales", &sum).expect(room);
    store.flush_blocking().expect("the disk takes it");
}

/// Makes the journal so long that the program folds everything into a dump.
fn fold(config: &ledger::Config, clock: &Clock) {
    let mut lines = vec![b'-'; FOLD_BYTES];
    lines.push(b'\n');
    fs::write(config.folder.join("journal.log"), lines).expect("there is room on the disk");
    let (ledger, _) = open(config, clock);
    ledger.write_behind().expect("the disk takes it");
    ledger.close().expect("the disk takes it");
}

/// Reads all sales out, page by page, as the operator's listener does, and writes them as JSON.
fn export(ledger: &Ledger) -> u64 {
    let mut sink = BufWriter::new(io::sink());
    let (mut before, mut count) = (None, 0);
    loop {
        let page = ledger
            .sales(before.as_deref(), SALES_PAGE_MAX)
            .expect("the ledger is well");
        for sale in &page.sales {
            serde_json::to_writer(&mut sink, sale).expect("a sink takes everything");
            count += 1;
        }
        before = page.next;
        if before.is_none() {
            return count;
        }
    }
}

/// Opens the ledger, and how long that took. sled lets go of its files a moment after a handle is dropped.
fn open(config: &ledger::Config, clock: &Clock) -> (Ledger, Duration) {
    loop {
        let begun = Instant::now();
        match Ledger::open(config, clock.clone()) {
            Ok(ledger) => return (ledger, begun.elapsed()),
            Err(LedgerError::Store(StoreError::Io(_))) => std::thread::yield_now(),
            Err(error) => panic!("the ledger does not open: {error}"),
        }
    }
}

fn when_free(open: impl Fn() -> Result<Store, StoreError>) -> Store {
    loop {
        match open() {
            Ok(store) => return store,
            Err(StoreError::Io(_)) => std::thread::yield_now(),
            Err(error) => panic!("the store does not open: {error}"),
        }
    }
}

fn sale(number: u32) -> SaleRecord {
    let settled_ms = BEGINS_SECS * 1_000 + u64::from(number) * EVERY_MS;
    SaleRecord {
        payment_hash: Sha256::digest(number.to_be_bytes()).into(),
        amount_msat: PRICE_MSAT,
        price_msat: Some(PRICE_MSAT),
        service: Some("chain".to_owned()),
        route: Some("/chain/*".to_owned()),
        token_id: Some(Sha256::digest((!number).to_be_bytes()).into()),
        challenged_ms: Some(settled_ms - 3_000),
        settled_ms,
        redeemed_ms: Some(settled_ms + 50),
        run: BEGINS_SECS * 1_000,
        ..SaleRecord::default()
    }
}

fn token(sale: &SaleRecord) -> (Vec<u8>, TokenRecord) {
    let token = TokenRecord {
        payment_hash: sale.payment_hash,
        token_id: sale.token_id.unwrap_or_default(),
        service: "chain".to_owned(),
        issued_ms: sale.challenged_ms,
        first_used_ms: sale.settled_ms + 50,
        last_used_ms: sale.settled_ms + 60_000,
        requests: 5,
        valid_until_secs: Some(sale.settled_ms / 1_000 + 3_600),
        bytes: 10_000,
        metered_ms: 10,
    };
    (
        TokenRecord::key(&token.payment_hash, &token.token_id),
        token,
    )
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// What the files of a folder hold.
fn megabytes(folder: &Path) -> f64 {
    fn bytes(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).expect("the folder is there");
        let entries = entries.map(|entry| entry.expect("the folder can be read").path());
        entries
            .map(|path| {
                if path.is_dir() {
                    bytes(&path)
                } else {
                    fs::metadata(&path).map_or(0, |file| file.len())
                }
            })
            .sum()
    }
    bytes(folder) as f64 / 1e6
}
