//! The account of what was sold: challenges made, payments settled, tokens used. Keyed by payment hash, which is where the
//! HTTP side and the Lightning side meet.
//!
//! Two promises. A settlement is on the disk twice (journal and store) before it is acknowledged to the node, and telling
//! it again changes nothing. And a request that was not paid for writes nothing that anybody waits for.

mod activations;
mod behind;
pub mod challenges;
mod channels;
mod claims;
mod copying;
mod journal;
mod late;
mod living;
mod losses;
mod opening;
pub mod quotas;
pub mod record;
mod revocations;
mod sales;
pub mod usage;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

pub use activations::{ACTIVATIONS_PAGE_MAX, Arrived};
pub use challenges::Challenge;
pub use claims::Claims;
pub use living::Living;
pub use quotas::{Free, QuotaUse};
pub use revocations::REVOCATION_REASON_CHARS_MAX;
pub use sales::{SALES_PAGE_MAX, SalesPage, TOKENS_PAGE_MAX, TokenSearch, TokensPage};
pub use usage::{Left, Overrun, Reservation, Unreserved};

use crate::account::store::{Store, StoreError, Together, Tree, calm};
use crate::base::clock::Clock;
use crate::base::pace::Pace;
use crate::protocol::l402::{TokenId, Verified};

use challenges::Challenges;
use journal::{Journal, Line};
use opening::{open_store, remove_if_there};
use quotas::Quotas;
use record::{
    ActivationRecord, ChallengeBatch, ChannelRecord, QuotaRecord, RevocationRecord, SaleRecord,
    TokenRecord, Totals,
};
use revocations::Revocations;
use usage::{Usage, Usages};

/// Where the one record of [`Totals`] stands.
const TOTALS_KEY: &[u8] = b"sales";

/// What the ledger needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder of store, journal and dump.
    pub folder: PathBuf,
    /// How many unpaid challenges are remembered at most.
    pub challenges_max: usize,
    /// How many networks' free quotas are counted at most.
    pub quotas_max: usize,
}

/// What went wrong with the account. Where something is written, each of these ends the program: what is not on the disk
/// must not be acknowledged. A request that cannot read a count is answered 500; damage to the store ends the program then,
/// too, and the next start mends it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store.
    #[error("failed to use the ledger's store")]
    Store(#[from] StoreError),
    /// The journal or a dump.
    #[error("failed to use the ledger's journal")]
    Journal(#[from] io::Error),
}

/// A payment that the node received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Its hash.
    pub payment_hash: [u8; 32],
    /// What arrived, in msat.
    pub amount_msat: u64,
}

/// What a settlement was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// A sale, now on the disk.
    New(SaleRecord),
    /// A sale that was in the books already: the event was told again.
    Known,
    /// Another payment of an invoice that was paid before.
    Surplus(SaleRecord),
}

/// The account.
#[derive(Debug)]
pub struct Ledger {
    /// The database.
    store: Store,
    /// Its trees.
    trees: Trees,
    /// Challenges that may still be paid.
    challenges: Challenges,
    /// Counts of the tokens in use.
    usages: Usages,
    /// What clients without a token have had.
    quotas: Arc<Quotas>,
    /// What the node is claiming, once it has come up.
    claims: OnceLock<Arc<Claims>>,
    /// Counts the sales that were entered.
    settlements: watch::Sender<u64>,
    /// Which tokens open nothing any more.
    revocations: Revocations,
    /// Set when the store turned out to be damaged: the next write behind ends the program.
    is_damaged: AtomicBool,
    /// Where that is noted for the next start, which sets the store aside.
    damage_note: PathBuf,
    /// Held by whoever changes a sale, journal line included. Its holders wait for the disk: never on a request's way.
    books: Mutex<Books>,
    /// Where the time comes from.
    clock: Clock,
    /// Names this run of the program in the sales that it challenged and settled.
    run: u64,
}

#[derive(Clone, Debug)]
struct Trees {
    challenges: Tree<ChallengeBatch>,
    sales: Tree<SaleRecord>,
    sales_by_time: Tree<()>,
    tokens: Tree<TokenRecord>,
    channels: Tree<ChannelRecord>,
    totals: Tree<Totals>,
    revocations: Tree<RevocationRecord>,
    quotas: Tree<QuotaRecord>,
    activations: Tree<ActivationRecord>,
}

impl Trees {
    /// Adds a sale to writes that happen together.
    fn put_sale(&self, writes: Together, sale: &SaleRecord) -> Result<Together, StoreError> {
        writes.put(&self.sales, &sale.payment_hash, sale)?.put(
            &self.sales_by_time,
            &sale.time_key(),
            &(),
        )
    }
}

#[derive(Debug)]
struct Books {
    journal: Journal,
    totals: Totals,
    /// A write failed: what is on the disk is not known, so nothing more is written.
    is_poisoned: bool,
}

impl Ledger {
    /// Whether there are books in this folder, or were when something happened to their store.
    pub fn is_there(config: &Config) -> bool {
        let is_there = |name| config.folder.join(name).exists();
        journal::is_any(&config.folder) || is_there("store")
    }

    /// Opens the account: the journal is read back and compared with the store; a store that sled calls corrupt, now or
    /// while it was last used, is set aside, whole, and rebuilt from the newest dump and the journal.
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

    /// Uses the store. Damage is noted on the disk, so that the next start sets the store aside instead of meeting it again.
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
        // A panic while the books were held leaves them in an unknown state, like a failed write.
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

    /// Does something to the books; if it fails, nothing is ever written to them again.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Books) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut books = self.books()?;
        let changed = self.using(|| change(&mut books));
        books.is_poisoned = changed.is_err();
        changed
    }

    /// Remembers a challenge, in memory.
    pub fn challenge(&self, challenge: Challenge) {
        self.challenges.keep(challenge);
    }

    /// Whether an invoice with this hash is remembered.
    pub fn is_challenged(&self, payment_hash: &[u8; 32]) -> bool {
        self.challenges.find(payment_hash).is_some()
    }

    /// How many challenges are remembered.
    pub fn challenge_count(&self) -> usize {
        self.challenges.len()
    }

    /// Enters a payment that the node received, and that it may have told before. On return it would survive a power cut, and
    /// only then may the event be acknowledged. Blocks on the disk.
    pub fn settle(&self, payment: Payment) -> Result<Settlement, LedgerError> {
        self.settle_told(payment, false)
    }

    /// The same for one that, if it is new, the node has never told before ([`Claims`]).
    pub fn settle_told(&self, payment: Payment, is_new: bool) -> Result<Settlement, LedgerError> {
        self.change(|books| match self.trees.sales.get(&payment.payment_hash)? {
            None => self.settle_first(books, payment),
            Some(sale) if is_new || self.is_of_one_run(&sale) => {
                self.settle_again(books, payment, sale)
            }
            Some(_) => Ok(Settlement::Known),
        })
    }

    /// Whether nothing can be told again of this sale: challenged and settled in one run of a node that does not tell what it
    /// claims. One that does may be started again within the program, and repeats then what it claimed before.
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

    /// What a payment that is not in the books has bought, as far as that is known.
    fn first_sale(&self, payment: Payment) -> Result<SaleRecord, LedgerError> {
        let challenge = self.challenges.find(&payment.payment_hash);
        // The token may have been used before the node told us: the preimage alone proves the payment.
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

    /// Journal first: of the two it is the one that cannot be damaged beyond its last line.
    fn write_sale(&self, books: &mut Books, sale: &SaleRecord) -> Result<(), LedgerError> {
        books.journal.append([&Line::Sale(sale.clone())])?;
        books.journal.sync()?;
        put_sale(&self.store, &self.trees, sale, &books.totals)?;
        self.store.flush_blocking()?;
        Ok(())
    }

    /// Reserves one request on this token, if its grant is not used up and its pace allows one. Reads the store at a token's first use only.
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

    /// The same for the file at this path: all requests for it within ten minutes count as one.
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

    /// Whether a use of this token was withdrawn a short while ago ([`Reservation::withdraw`]).
    pub fn was_withdrawn(&self, token_id: &TokenId) -> bool {
        let usage = self.usages.find(token_id);
        usage.is_some_and(|usage| usage.was_withdrawn(self.clock.since_boot_ms()))
    }

    /// Reserves one free request of this service for the client's network. `None` if it has had its quota, or if there is
    /// no room to count it. In memory.
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

/// Fills into a sale what the first use of its token tells.
fn redeem(sale: &mut SaleRecord, token: &TokenRecord) {
    sale.service.get_or_insert_with(|| token.service.clone());
    sale.token_id.get_or_insert(token.token_id);
    sale.redeemed_ms.get_or_insert(token.first_used_ms);
}

fn put_sale(
    store: &Store,
    trees: &Trees,
    sale: &SaleRecord,
    totals: &Totals,
) -> Result<(), StoreError> {
    let writes = trees.put_sale(Together::default(), sale)?;
    store.write(writes.put(&trees.totals, TOTALS_KEY, totals)?)
}
