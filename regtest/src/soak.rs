//! The soak: a merchant that is killed at random moments with payments in flight, again and again. After each time every
//! payment is looked for in its books and every satoshi in its node.
//!
//! One cycle: buyers buy over L402 as fast as they can, all at once; the merchant is killed (SIGKILL), is started again and
//! connected to the payer; a channel that the node gave up is followed on the chain until its money is back, and a new one is
//! opened. Then this must hold:
//!
//! - Every payment that the payer's node calls successful is in the merchant's books, once; nothing else is.
//! - Every token bought opens its door.
//! - The money adds up to the satoshi (the module `money` says how), and every channel that was closed is shown to the operator.

mod books;
mod buyers;
mod dice;
mod money;
mod supervisor;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use self::books::Books;
use self::buyers::Buyers;
use self::dice::Dice;
use self::money::Money;
use crate::esplora::Esplora;
use crate::folder;
use crate::hostile::Pest;
use crate::network::{Network, NetworkOptions};
use crate::wait::eventually;

pub use self::dice::random_seed;

/// What is sold, below the public listener.
const ARTICLE: &str = "/articles/one.html";

/// Its route. The price is a whole number of satoshi and more than dust (354 sat), so that no payment is lost to rounding or
/// trimmed from a commitment: what is checked has no slack. The token is good for a day, which is longer than a soak.
const ROUTES: &str = "[[route]]\npath = \"/articles/*\"\nservice = \"articles\"\nprice = \"1000 sat\"\nfiles = \"articles\"\n";

/// As large as a channel may be without further agreement (16,777,215 sat): some 16,000 payments.
const CHANNEL_SAT: u64 = 16_000_000;

/// With less than this on the payer's side a new channel is opened before the next cycle, which may spend some 50 payments
/// times 1,000 sat, and the 1 % that stays as a reserve.
const LEFT_MIN_MSAT: u64 = 1_000_000_000;

/// How long everything may take to be in order while no channel has been closed: LDK's first payment after a start takes up
/// to 2 s, a payment that is tried again up to 10.
const ORDER_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take after blocks were mined, before more of them are.
const BLOCKS_DEADLINE: Duration = Duration::from_secs(1);

/// Blocks that are mined, one number after the other, until the money of a closed channel is back. First slowly, as long as a
/// payment under way can be claimed: a claim that was not taken (its fee came from the coin that had bumped the commitment) is
/// made again after 15 blocks, and payments expire after 42 at the earliest. Then the 144 that the closing side waits for
/// its own output, and its sweep; then the expiry of payments that were never claimed (up to 432 more, which the payer adds
/// at random to hide where they end).
const BLOCKS: [u32; 16] = [1, 3, 3, 3, 3, 3, 3, 6, 6, 145, 6, 6, 100, 100, 100, 150];

/// How a soak is done.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// The `tollhouse` program to drive; it must not change meanwhile.
    pub tollhouse_exe: PathBuf,
    /// How often.
    pub cycles: u32,
    /// Buyers at once.
    pub in_flight: usize,
    /// What the moments are drawn from.
    pub seed: u64,
    /// Whether the merchant is killed. Otherwise it is told to stop (SIGTERM) at the same moments, for comparison.
    pub kills: bool,
    /// Whether a hostile peer bothers the merchant all the while.
    pub hostile: bool,
    /// Where progress goes, line by line.
    pub tell: fn(&str),
}

/// What came of it. The fields' names are an interface: they are the keys of a JSON object.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Cycles that were done.
    pub cycles: u32,
    /// Payments that the payer saw succeed.
    pub payments: u64,
    /// Of these, how many are not in the merchant's books.
    pub lost: u64,
    /// Sales that stand in the books twice, or with more than was paid.
    pub doubled: u64,
    /// Sales that nobody paid for, as far as the payer knows.
    pub invented: u64,
    /// Tokens bought that open nothing.
    pub refused: u64,
    /// Cycles after which the money did not add up.
    pub unbalanced: u64,
    /// Channels that were closed, by either node, as the merchant shows them to its operator.
    pub channels_closed: u64,
    /// Channels that the payer had to open in their place: the same number.
    pub channels_reopened: u64,
    /// How many of them for which reason.
    pub reasons: BTreeMap<String, u64>,
    /// What the merchant paid to miners to get their money back, in sat.
    pub fees_sat: i64,
    /// Purchases at once.
    pub in_flight: usize,
    /// What the moments were drawn from.
    pub seed: u64,
    /// Whether it was killed.
    pub kills: bool,
    /// How often the merchant ended by itself, with a reason in its log, and was started again as an init system does.
    pub ended_by_itself: u64,
    /// What a hostile peer did meanwhile: channels that it never funded or gave up at once, payments without an invoice, and
    /// rounds of idle sockets. 0 without one.
    pub nuisances: u64,
    /// How long it took.
    pub seconds: u64,
}

impl Outcome {
    /// Whether nothing was lost, and nothing is there that should not be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.invented + self.refused + self.unbalanced == 0
    }
}

/// Soaks until the cycles are done, `stop` is set, or something is found, which would only be found again in every later
/// cycle. Then the folder of the run is kept and told.
///
/// # Errors
/// When the harness itself fails, or the merchant does not come back.
pub async fn soak(options: SoakOptions, stop: &AtomicBool) -> Result<Outcome> {
    let begun = Instant::now();
    let (cycles, tell) = (options.cycles, options.tell);
    let mut soak = Soak::start(options).await?;
    let mut done = Ok(());
    while done.is_ok()
        && soak.outcome.is_clean()
        && soak.outcome.cycles < cycles
        && !stop.load(Ordering::Acquire)
    {
        let number = soak.outcome.cycles + 1;
        done = soak
            .cycle()
            .await
            .with_context(|| format!("in cycle {number}"));
    }
    soak.outcome.seconds = begun.elapsed().as_secs();
    if (done.is_err() || !soak.outcome.is_clean())
        && let Some(dir) = soak.network.keep()
    {
        tell(&format!("the folder of the run is kept: {}", dir.display()));
    }
    done?;
    soak.network.stop().await?;
    Ok(soak.outcome)
}

/// A soak under way.
struct Soak {
    options: SoakOptions,
    /// The hostile peer, if there is one.
    pest: Option<Arc<Pest>>,
    network: Network,
    dice: Dice,
    /// What was bought, and what the books say of it.
    books: Books,
    /// Where the money is.
    money: Money,
    /// Channels that were opened in place of closed ones.
    reopened: u64,
    /// Channels that we closed ourselves because they were used up.
    used_up: u64,
    outcome: Outcome,
    /// What is sold; removed last.
    _dir: TempDir,
}

impl Soak {
    async fn start(options: SoakOptions) -> Result<Self> {
        let dir = goods()?;
        let mut network = Network::start(NetworkOptions {
            routes_dir: Some(dir.path().to_owned()),
            channel_sat: CHANNEL_SAT,
            ..NetworkOptions::new(options.tollhouse_exe.clone(), ROUTES)
        })
        .await?;
        // A chain source of its own: what is sent through it, the merchant has sent.
        let esplora = Esplora::start(&network.bitcoind)?;
        network.merchant.settings_mut().esplora = esplora.url();
        network.merchant.restart().await?;
        network.merchant.wait_up().await?;
        network.ensure_channel().await?;
        let pest = if options.hostile {
            Some(Pest::start(&network).await?)
        } else {
            None
        };
        let money = Money::count(&network, esplora).await?;
        (options.tell)(&format!(
            "{} cycles, {} purchases at once, seed {}: the merchant has {} sat",
            options.cycles, options.in_flight, options.seed, money.deposit_sat
        ));
        Ok(Self {
            outcome: Outcome {
                in_flight: options.in_flight,
                seed: options.seed,
                kills: options.kills,
                ..Outcome::default()
            },
            dice: Dice::new(options.seed),
            books: Books::default(),
            money,
            pest,
            reopened: 0,
            used_up: 0,
            options,
            network,
            _dir: dir,
        })
    }

    /// One time through all of it.
    async fn cycle(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.refill().await?;
        let bother = match &self.pest {
            Some(pest) => {
                pest.get_ready(&self.network).await;
                Some(pest.bother())
            }
            None => None,
        };
        self.know_channels();
        let buyers = Buyers::start(&self.network, ARTICLE, self.options.in_flight);
        let moment = self.dice.moment();
        if moment.is_warm {
            buyers.first_purchase().await?;
        }
        sleep_until(Instant::now() + moment.after).await;
        let merchant = &mut self.network.merchant;
        if self.options.kills {
            merchant.kill()?;
        } else {
            let ended = merchant.terminate().await?;
            if !ended.success() {
                bail!("the merchant ended with {ended}");
            }
        }
        buyers.enough();
        merchant.restart().await?;
        let reopened = self.come_up().await?;
        self.books.expect(buyers.challenges());
        let seen = self.settle(reopened > 0).await;
        buyers.end().await;
        if let Some(bother) = bother {
            bother.end().await;
        }
        self.audit(seen).await?;
        self.note_closings().await?;
        self.outcome.cycles += 1;
        (self.options.tell)(&format!(
            "cycle {}: {} after {} ms; {} payments in all, {} channels closed; {:.1} s",
            self.outcome.cycles,
            if self.options.kills {
                "killed"
            } else {
                "stopped"
            },
            moment.after.as_millis(),
            self.outcome.payments,
            self.outcome.channels_closed,
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Remembers what funds the channels that are open now.
    fn know_channels(&mut self) {
        self.money.know_channels(&self.network);
        if let Some(pest) = &self.pest {
            self.money.know_channels_of_others(pest.fundings());
        }
    }

    /// The channels that the merchant shows as closed, without the pest's.
    fn closings(&self, status: &Value) -> Vec<(String, String)> {
        let others = self.pest.as_ref().map(|pest| pest.node_id());
        closings(status, others.as_deref())
    }

    /// Replaces a channel that is nearly used up.
    async fn refill(&mut self) -> Result<()> {
        let channels = self.network.payer.channels();
        let left_msat: u64 = channels
            .iter()
            .map(|channel| channel.outbound_capacity_msat)
            .sum();
        if left_msat >= LEFT_MIN_MSAT {
            return Ok(());
        }
        self.used_up += self.network.close_channels().await? as u64;
        self.network.ensure_channel().await?;
        self.know_channels();
        self.settle(true)
            .await
            .map_err(|seen| anyhow::anyhow!("after a channel was closed in good order: {seen}"))
    }

    /// Waits until everything is in order. Money of a channel that was closed comes back with blocks.
    async fn settle(&mut self, mut was_closed: bool) -> Result<(), String> {
        let mut blocks = BLOCKS.iter();
        loop {
            let seen = self.look_until_in_order(was_closed).await;
            let Err(seen) = seen.map_err(|error| format!("{error:#}")) else {
                return Ok(());
            };
            if let Some(reopened) = self.revive().await.map_err(|error| format!("{error:#}"))? {
                was_closed |= reopened > 0;
            } else {
                let blocks = blocks.next().filter(|_| was_closed).ok_or(seen)?;
                let mined = self.network.mine(*blocks).await;
                mined.map_err(|error| format!("{error:#}"))?;
            }
        }
    }

    /// Looks until all holds, as long as it may take; what did not hold at last is the error.
    async fn look_until_in_order(&self, was_closed: bool) -> Result<()> {
        let deadline = if was_closed {
            BLOCKS_DEADLINE
        } else {
            ORDER_DEADLINE
        };
        let what = "payments, books and money to be in order";
        eventually(what, deadline, move || async move {
            self.look(was_closed).await.map(Some)
        })
        .await
    }

    /// One look at what must hold; what does not is the error.
    async fn look(&self, was_closed: bool) -> Result<(), String> {
        let payer = &self.network.payer;
        let pending = self.books.pending(payer);
        if pending > 0 {
            return Err(format!("{pending} payments are under way"));
        }
        let status = self.network.merchant.admin().status().await;
        let status = status.map_err(|error| format!("{error:#}"))?;
        let (paid, sold) = (self.books.paid(payer), &status["sales"]["count"]);
        if sold.as_u64() != Some(paid) {
            return Err(format!(
                "{paid} payments succeeded, {sold} sales are in the books"
            ));
        }
        let shown = self.closings(&status).len() as u64;
        if shown < (self.reopened + self.used_up).min(CLOSURES_SHOWN) {
            return Err(format!("{shown} closed channels are shown"));
        }
        let balance = self.money.balance(&self.network, &status).await;
        let balance = balance.map_err(|error| format!("{error:#}"))?;
        if was_closed {
            let unspent = self.money.unspent_fundings(&self.network).await;
            let unspent = unspent.map_err(|error| format!("{error:#}"))?;
            if unspent + balance.closing_sat > 0 {
                return Err(format!(
                    "{unspent} closings are in no block, {} sat of closed channels are on their way",
                    balance.closing_sat
                ));
            }
        }
        balance.must_hold()
    }

    /// Looks at each payment, each sale and each token, and says what is wrong.
    async fn audit(&mut self, seen: Result<(), String>) -> Result<()> {
        let found = self.books.audit(&self.network, ARTICLE).await?;
        let outcome = &mut self.outcome;
        outcome.payments = found.payments;
        outcome.lost = found.lost.len() as u64;
        outcome.doubled = found.doubled.len() as u64;
        outcome.invented = found.invented.len() as u64;
        outcome.refused = found.refused.len() as u64;
        outcome.fees_sat = self.money.fees_sat(&self.network).await?;
        outcome.nuisances = self.pest.as_ref().map_or(0, |pest| pest.done());
        for (what, hashes) in [
            ("LOST", found.lost),
            ("DOUBLED", found.doubled),
            ("INVENTED", found.invented),
            ("REFUSED", found.refused),
        ] {
            for hash in hashes {
                (self.options.tell)(&format!("{what}: {hash}"));
            }
        }
        if let Err(seen) = seen {
            (self.options.tell)(&format!("NOT IN ORDER: {seen}"));
            outcome.unbalanced += 1;
        }
        Ok(())
    }

    /// Counts the channels that were closed, but not those that we closed ourselves.
    async fn note_closings(&mut self) -> Result<()> {
        let status = self.network.merchant.admin().status().await?;
        self.outcome.reasons.clear();
        for reason in self.money.know_closings(self.closings(&status)) {
            *self.outcome.reasons.entry(reason).or_default() += 1;
        }
        let closed: u64 = self.outcome.reasons.values().sum();
        self.outcome.channels_closed = closed - self.used_up.min(closed);
        self.outcome.channels_reopened = self.reopened;
        Ok(())
    }
}

/// So many closed channels are shown by the operator's listener.
const CLOSURES_SHOWN: u64 = 100;

/// The channels that the merchant shows as closed, but for those with this node: their ids and the reasons.
fn closings(status: &Value, but: Option<&str>) -> Vec<(String, String)> {
    let closed = status["node"]["channels_closed"].as_array();
    let closed = closed.into_iter().flatten();
    closed
        .filter(|closure| but.is_none() || closure["counterparty"].as_str() != but)
        .map(|closure| {
            let text = |key: &str| closure[key].as_str().unwrap_or("none given").to_owned();
            (text("channel_id"), text("reason"))
        })
        .collect()
}

/// A folder with what is sold.
fn goods() -> Result<TempDir> {
    let dir = folder::temporary()?;
    let write = |articles: &Path| {
        fs::create_dir(articles)?;
        fs::write(
            articles.join("one.html"),
            "<!doctype html><title>One</title>",
        )
    };
    write(&dir.path().join("articles")).context("failed to write what is sold")?;
    Ok(dir)
}
