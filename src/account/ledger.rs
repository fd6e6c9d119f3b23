//! The ledger: challenges made, payments settled and tokens used. Its key is the payment hash,
//! which the HTTP side and the Lightning side share.
//!
//! A settlement is on disk in journal and store before the node's event is acknowledged, and a
//! repeated event changes nothing. An unpaid request never waits for a write to disk.

mod activations;
mod behind;
pub mod challenges;
mod channels;
mod claims;
mod copying;
mod error;
mod journal;
mod late;
mod living;
mod losses;
mod opening;
mod payment;
mod put;
pub mod quotas;
pub mod record;
mod revocations;
mod revoked;
mod sales;
mod state;
pub mod usage;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::base::clock::Clock;
use crate::base::pace::Pace;
use crate::protocol::l402::{TokenId, Verified};

use super::store::{Store, StoreError, calm};
use challenges::Challenges;
use journal::{Journal, Line};
use opening::{open_store, remove_if_there};
use put::put_sale;
use quotas::Quotas;
use record::{SaleRecord, TokenRecord};
use revoked::Revocations;
use state::{Books, TOTALS_KEY};
use usage::{Usage, Usages};

pub use activations::{ACTIVATIONS_PAGE_MAX, Arrived};
pub use challenges::Challenge;
pub use claims::Claims;
pub use error::LedgerError;
pub use living::Living;
pub use payment::{Payment, Settlement};
pub use quotas::{Free, QuotaUse};
pub use revoked::REVOCATION_REASON_CHARS_MAX;
pub use sales::{SALES_PAGE_MAX, SalesPage, TOKENS_PAGE_MAX, TokenSearch, TokensPage};
pub use state::{Config, Ledger};
pub use usage::{Left, Overrun, Reservation, Unreserved};

impl Ledger {
    /// Whether this folder holds a ledger: a journal, a dump or a store.
    pub fn is_there(config: &Config) -> bool {
        let is_there = |name| config.folder.join(name).exists();
        journal::is_any(&config.folder) || is_there("store")
    }

    /// Opens the ledger: reads the journal and adds to the store what it lacks. If sled reports the
    /// store as corrupt, now or in the last run, the whole store is set aside and rebuilt from the
    /// newest dump and the journal.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(&config.folder)?;
        let journal = Journal::open(&config.folder)?;
        let path = config.folder.join("store");
        let damage_note = config.folder.join("store.damaged");
        let mut opened = match std::fs::read(&damage_note) {
            Ok(why) => Err(StoreError::Corrupt(String::from_utf8_lossy(&why).into_owned()).into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                calm(|| open_store(&path, &journal, clock.unix_ms()))
            }
            Err(error) => Err(error.into()),
        };
        if let Err(LedgerError::Store(StoreError::Corrupt(why))) = &opened {
            if let Some(aside) = Store::set_aside(&path, clock.unix_secs())? {
                let aside = aside.display();
                tracing::error!(
                    "The ledger's store is damaged ({why}). It is kept as {aside}, and rebuilt from dump and journal"
                );
            }
            remove_if_there(&damage_note)?;
            opened = calm(|| open_store(&path, &journal, clock.unix_ms()));
        }
        let (store, trees, stored) = opened?;
        let totals = trees.totals.get(TOTALS_KEY)?.unwrap_or_default();
        let mut had = Vec::new();
        for entry in trees.quotas.iter() {
            let (key, quota) = entry?;
            had.extend(key.try_into().ok().map(|key| (key, quota)));
        }
        let revocations = Revocations::default();
        for entry in trees.revocations.iter() {
            revocations.enter(&entry?.1);
        }
        Ok(Self {
            quotas: Arc::new(Quotas::new(config.quotas_max, had, clock.moment())),
            revocations,
            claims: OnceLock::new(),
            settlements: watch::Sender::default(),
            challenges: Challenges::new(config.challenges_max, stored),
            usages: Usages::default(),
            is_damaged: AtomicBool::new(false),
            damage_note,
            books: Mutex::new(Books {
                journal,
                totals,
                is_poisoned: false,
            }),
            run: clock.unix_ms().max(1),
            store,
            trees,
            clock,
        })
    }

    /// Uses the store. Damage is noted on disk, so that the next start sets the store aside.
    fn using<T>(&self, work: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let done = calm(work);
        if let Err(LedgerError::Store(StoreError::Corrupt(why))) = &done
            && !self.is_damaged.swap(true, Ordering::AcqRel)
        {
            tracing::error!(
                "The ledger's store is damaged ({why}): it is rebuilt at the next start"
            );
            let noted = std::fs::write(&self.damage_note, why)
                .and_then(|()| File::open(&self.damage_note)?.sync_all());
            if let Err(error) = noted {
                tracing::error!(
                    "Failed to note that in {}: {error}",
                    self.damage_note.display()
                );
            }
        }
        done
    }

    fn books(&self) -> Result<MutexGuard<'_, Books>, LedgerError> {
        // A panic while the lock was held leaves the books in an unknown state, like a failed
        // write.
        let books = self.books.lock().unwrap_or_else(|poisoned| {
            let mut books = PoisonError::into_inner(poisoned);
            books.is_poisoned = true;
            books
        });
        if books.is_poisoned {
            Err(StoreError::Poisoned.into())
        } else {
            Ok(books)
        }
    }

    /// Changes the books. After a failed change, nothing is written to them again.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Books) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut books = self.books()?;
        let changed = self.using(|| change(&mut books));
        books.is_poisoned = changed.is_err();
        changed
    }

    /// Remembers a challenge in memory.
    pub fn challenge(&self, challenge: Challenge) {
        self.challenges.keep(challenge);
    }

    /// Whether an invoice with this hash is remembered.
    pub fn is_challenged(&self, payment_hash: &[u8; 32]) -> bool {
        self.challenges.find(payment_hash).is_some()
    }

    /// Returns the number of remembered challenges.
    pub fn challenge_count(&self) -> usize {
        self.challenges.len()
    }

    /// Records a payment that the node received. The node may report a payment several times. On
    /// return, the record survives a power cut; only then may the event be acknowledged. Blocks on
    /// the disk.
    pub fn settle(&self, payment: Payment) -> Result<Settlement, LedgerError> {
        self.settle_told(payment, false)
    }

    /// Like `settle`; `is_new` says that the node reports this payment for the first time
    /// ([`Claims`]).
    pub fn settle_told(&self, payment: Payment, is_new: bool) -> Result<Settlement, LedgerError> {
        self.change(|books| match self.trees.sales.get(&payment.payment_hash)? {
            None => self.settle_first(books, payment),
            Some(sale) if is_new || self.is_of_one_run(&sale) => {
                self.settle_again(books, payment, sale)
            }
            Some(_) => Ok(Settlement::Known),
        })
    }

    /// Whether another report of this sale must be a second payment. The sale was challenged and
    /// settled in this run, by a node that does not report its claims. A node that reports its
    /// claims may restart within the program and then repeats earlier payments.
    fn is_of_one_run(&self, sale: &SaleRecord) -> bool {
        self.claims.get().is_none() && sale.run == self.run
    }

    fn settle_first(&self, books: &mut Books, payment: Payment) -> Result<Settlement, LedgerError> {
        let mut sale = self.first_sale(payment)?;
        if let Some(price_msat) = sale.price_msat {
            sale.split_at(price_msat);
        }
        books.totals.add(&sale);
        self.write_sale(books, &sale)?;
        self.tell_settled(&sale);
        Ok(Settlement::New(sale))
    }

    /// Builds the sale for a payment that is not in the ledger, as far as its details are known.
    fn first_sale(&self, payment: Payment) -> Result<SaleRecord, LedgerError> {
        let challenge = self.challenges.find(&payment.payment_hash);
        // The token may be used before the node reports the payment: the preimage alone proves it.
        let token = self
            .trees
            .tokens
            .with_prefix(&payment.payment_hash)
            .next()
            .transpose()?
            .map(|(_, token)| token);
        let mut sale = SaleRecord {
            payment_hash: payment.payment_hash,
            amount_msat: payment.amount_msat,
            settled_ms: self.clock.unix_ms(),
            ..SaleRecord::default()
        };
        if let Some((challenge, is_of_this_run)) = challenge {
            sale.price_msat = Some(challenge.price_msat);
            sale.service = Some(challenge.service.to_string());
            sale.route = Some(challenge.route.to_string());
            sale.token_id = Some(challenge.token_id);
            sale.challenged_ms = Some(challenge.challenged_ms);
            sale.grant = challenge.grant.as_deref().map(str::to_owned);
            sale.rate = challenge.rate.map(Into::into);
            sale.run = if is_of_this_run { self.run } else { 0 };
            sale.expires_ms = Some(challenge.expires_ms);
        }
        if let Some(token) = token {
            redeem(&mut sale, &token);
        }
        Ok(sale)
    }

    fn settle_again(
        &self,
        books: &mut Books,
        payment: Payment,
        mut sale: SaleRecord,
    ) -> Result<Settlement, LedgerError> {
        sale.surplus_msat += payment.amount_msat;
        books.totals.surplus_msat += payment.amount_msat;
        self.write_sale(books, &sale)?;
        Ok(Settlement::Surplus(sale))
    }

    /// Writes the journal first, because only its last line can be damaged.
    fn write_sale(&self, books: &mut Books, sale: &SaleRecord) -> Result<(), LedgerError> {
        books.journal.append([&Line::Sale(sale.clone())])?;
        books.journal.sync()?;
        put_sale(&self.store, &self.trees, sale, &books.totals)?;
        self.store.flush_blocking()?;
        Ok(())
    }

    /// Reserves one request on this token, if its grant is not used up and its pace allows it.
    /// Reads the store only if the token's count is not in memory.
    pub async fn reserve(
        &self,
        verified: &Verified,
        service: &str,
        overrun: Overrun,
        pace: Option<Pace>,
    ) -> Result<Result<Reservation, Unreserved>, LedgerError> {
        self.reserve_for(verified, service, (overrun, pace), None)
            .await
    }

    /// Like `reserve`, for the file at this path: all its requests within ten minutes count as one.
    pub async fn reserve_file(
        &self,
        verified: &Verified,
        service: &str,
        overrun: Overrun,
        pace: Option<Pace>,
        path: &str,
    ) -> Result<Result<Reservation, Unreserved>, LedgerError> {
        let file = Some(self.usages.file(path));
        self.reserve_for(verified, service, (overrun, pace), file)
            .await
    }

    async fn reserve_for(
        &self,
        verified: &Verified,
        service: &str,
        (overrun, pace): (Overrun, Option<Pace>),
        file: Option<u64>,
    ) -> Result<Result<Reservation, Unreserved>, LedgerError> {
        let token_id = verified.identifier.token_id;
        let usage = match self.usages.find(&token_id) {
            Some(usage) => usage,
            None => {
                let usage = self.load_usage(verified, service).await?;
                self.usages.find_or_keep(token_id, usage)
            }
        };
        usage.be_late(verified.allowance.late_secs);
        Ok(Reservation::reserve(
            &usage,
            &verified.allowance,
            overrun,
            pace,
            file,
            &self.clock,
        ))
    }

    /// Whether a request on this token was recently withdrawn ([`Reservation::withdraw`]).
    pub fn was_withdrawn(&self, token_id: &TokenId) -> bool {
        let usage = self.usages.find(token_id);
        usage.is_some_and(|usage| usage.was_withdrawn(self.clock.since_boot_ms()))
    }

    /// Reserves one free request to this service for the client's network, in memory. Returns
    /// `None` if the network has used its quota or if the table is full.
    pub fn reserve_free(&self, service: &str, client: IpAddr, free: Free) -> Option<QuotaUse> {
        let now = self.clock.moment();
        self.quotas.reserve(service, client, free, now)
    }

    async fn load_usage(&self, verified: &Verified, service: &str) -> Result<Usage, LedgerError> {
        let payment_hash = verified.identifier.payment_hash;
        let token_id = verified.identifier.token_id;
        let tokens = self.trees.tokens.clone();
        let key = TokenRecord::key(&payment_hash, &token_id.0);
        let load = move || calm(|| tokens.get(&key));
        let loaded = tokio::task::spawn_blocking(load)
            .await
            .expect("reading a record is calm");
        let stored = self.using(|| Ok(loaded?))?;
        let now = self.clock.moment();
        let token = stored.unwrap_or_else(|| TokenRecord {
            payment_hash,
            token_id: token_id.0,
            service: service.to_owned(),
            issued_ms: self
                .challenges
                .find(&payment_hash)
                .map(|(challenge, _)| challenge.challenged_ms),
            first_used_ms: now.unix_ms,
            last_used_ms: now.unix_ms,
            requests: 0,
            valid_until_secs: verified.allowance.valid_until_secs,
            bytes: 0,
            metered_ms: 0,
        });
        Ok(Usage::new(token, now))
    }
}

/// Fills in the sale's service, token id and time of redemption from its token, where missing.
fn redeem(sale: &mut SaleRecord, token: &TokenRecord) {
    sale.service.get_or_insert_with(|| token.service.clone());
    sale.token_id.get_or_insert(token.token_id);
    sale.redeemed_ms.get_or_insert(token.first_used_ms);
}
