//! A ledger in a temporary folder that can be closed, killed, damaged and opened again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tollhouse::account::ledger::record::{SaleRecord, Totals};
use tollhouse::account::ledger::{Challenge, Ledger, LedgerError, Overrun, Payment};
use tollhouse::account::store::StoreError;
use tollhouse::base::clock::Clock;
use tollhouse::protocol::l402::caveat::Allowance;
use tollhouse::protocol::l402::{Identifier, TokenId, Verified};

use crate::support::{DEADLINE, NOW_SECS, ledger_in};

/// What one sale costs in these tests, in msat.
pub(crate) const PRICE_MSAT: u64 = 10_000;

/// The folder, and the time.
#[derive(Debug)]
pub(crate) struct Books {
    dir: TempDir,
    pub(crate) clock: Clock,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Clock::fixed(NOW_SECS),
        }
    }

    /// Opens the ledger. Some time has passed since it was last open.
    pub(crate) fn open(&self) -> Ledger {
        self.when_free().unwrap()
    }

    /// A ledger that was dropped a moment ago may still be held: sled lets go of its files in the background, which in a
    /// process of its own ends with the process.
    pub(crate) fn when_free(&self) -> Result<Ledger, LedgerError> {
        let end = Instant::now() + DEADLINE;
        loop {
            let opened = self.try_open();
            match &opened {
                Err(LedgerError::Store(StoreError::Io(held)))
                    if held.to_string().contains("could not acquire lock")
                        && Instant::now() < end =>
                {
                    std::thread::yield_now();
                }
                _ => return opened,
            }
        }
    }

    /// The database itself, once its last user has let go of it.
    pub(crate) fn database(&self) -> sled::Db {
        let end = Instant::now() + DEADLINE;
        loop {
            match sled::open(self.file("store")) {
                Err(sled::Error::Io(_)) if Instant::now() < end => {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }

    pub(crate) fn try_open(&self) -> Result<Ledger, LedgerError> {
        self.clock.advance(Duration::from_secs(1));
        Ledger::open(&ledger_in(self.dir.path()), self.clock.clone())
    }

    /// The ledger's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The folder as it is on the disk now, which is what a killed program leaves behind.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Clock::fixed(self.clock.unix_secs()),
        };
        copy_folder(&self.folder(), &copy.folder());
        copy
    }

    /// The stores that were set aside.
    pub(crate) fn set_aside(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.display().to_string().contains(".corrupt-"))
            .collect()
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub(crate) fn payment(number: u8) -> Payment {
    Payment {
        payment_hash: [number; 32],
        amount_msat: PRICE_MSAT,
    }
}

/// The challenge that this payment answers.
pub(crate) fn challenge(number: u8, clock: &Clock) -> Challenge {
    Challenge {
        payment_hash: [number; 32],
        token_id: [number; 32],
        service: "chain".into(),
        route: "/chain/*".into(),
        price_msat: PRICE_MSAT,
        challenged_ms: clock.unix_ms(),
        expires_ms: clock.unix_ms() + 600_000,
        grant: None,
        rate: None,
    }
}

/// The token that this payment bought, for at most so many requests.
pub(crate) fn token(number: u8, requests_max: Option<u64>) -> Verified {
    Verified {
        identifier: Identifier {
            payment_hash: [number; 32],
            token_id: TokenId([number; 32]),
        },
        allowance: Allowance {
            requests_max,
            ..Allowance::default()
        },
    }
}

/// Uses a token once; whether it still could be.
pub(crate) async fn use_once(ledger: &Ledger, token: &Verified) -> bool {
    ledger
        .reserve(token, "chain", Overrun::Serve, None)
        .await
        .unwrap()
        .is_ok()
}

/// How often a token can still be used: uses it up.
pub(crate) async fn uses_left(ledger: &Ledger, token: &Verified) -> u64 {
    let mut uses = 0;
    while use_once(ledger, token).await {
        uses += 1;
    }
    uses
}

/// All sales, the newest first, and their totals.
pub(crate) fn account(ledger: &Ledger) -> (Vec<SaleRecord>, Totals) {
    (ledger.sales(None, 500).unwrap().sales, ledger.totals())
}

/// The sale of this payment.
pub(crate) fn find_sale(ledger: &Ledger, number: u8) -> SaleRecord {
    let mut sales = account(ledger).0.into_iter();
    sales
        .find(|sale| sale.payment_hash == [number; 32])
        .unwrap()
}

/// Totals with this surplus.
pub(crate) fn with_surplus(totals: Totals, surplus_msat: u64) -> Totals {
    Totals {
        surplus_msat,
        ..totals
    }
}

/// Number and sum.
pub(crate) fn totals(count: u64, amount_msat: u64) -> Totals {
    Totals {
        count,
        amount_msat,
        surplus_msat: 0,
        lost_msat: 0,
    }
}
