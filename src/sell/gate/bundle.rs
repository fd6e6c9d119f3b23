//! A bundle that is laid ready: its invoice was made before anybody asked, because its payment opens a channel, and a challenge
//! never waits for the provider that opens it.
//!
//! It is handed to one client, and never again. Whoever else had a token for the same payment could use up what was bought:
//! the nodes that forward a payment learn its preimage. That it was handed out is remembered in memory only, since a challenge
//! waits for no disk; so after a start nothing is laid ready until another invoice is made.
//!
//! The provider allows only a few bundles a day. A network that received one without paying gets no other for a day.
//! A network that had one before waits while others wait for their first. Loopback clients come through a proxy
//! outside the settings, so no such share applies to them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::base::amount::Msat;
use crate::protocol::invoice::{Invoice, Unready};
use crate::sell::route::{Grant, Offer, Plan};

use super::Gate;
use super::limit::wide_network;

/// What is left to whoever gets it, at least: as long as an invoice can usually be paid.
const LEFT_SECS_MIN: u64 = 600;

/// How long a network that did not pay gets no other bundle.
const BARRED_MS: u64 = 86_400_000;

/// How long a new bundle is reserved for waiting networks that never had one. Other clients get a `Retry-After` of
/// half a minute.
const FIRST_MS: u64 = 5 * 60 * 1_000;

/// The most networks remembered in each list: more than a week of six bundles a day, and bounded under a flood of
/// addresses.
const NETWORKS_MAX: usize = 64;

/// A bundle and the invoice that was made for it.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it is sold on, as books and logs call it.
    pub name: Arc<str>,
    /// Which of the grants there it is.
    pub plan: Arc<str>,
    /// What it buys.
    pub grant: Grant,
    /// What it costs.
    pub price: Msat,
    /// The invoice.
    pub invoice: Invoice,
    /// Whether the provider that opens the channel is connected.
    pub is_provider_here: watch::Receiver<bool>,
}

/// A bundle that was laid ready, and what has become of it.
#[derive(Clone, Debug)]
pub struct LaidReady {
    /// Which.
    pub bundle: Bundle,
    /// When it was handed to a client, Unix milliseconds.
    pub handed_ms: Option<u64>,
    /// Whether somebody has asked for something since it was gone, and could not be given an invoice.
    pub was_missed: bool,
}

/// What may be laid ready. A `std` mutex: held for a look, never across an await.
#[derive(Debug, Default)]
pub(super) struct Bundles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    laid: Option<LaidReady>,
    /// When the bundle was laid ready, Unix milliseconds.
    laid_ms: u64,
    /// The networks that received a bundle, each once, the latest last.
    handed: VecDeque<Handed>,
    /// Networks that wait for their first bundle, and since when, Unix milliseconds.
    waiting: VecDeque<(IpAddr, u64)>,
}

/// The last bundle that a network received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handed {
    network: IpAddr,
    payment_hash: [u8; 32],
    /// When, Unix milliseconds.
    at_ms: u64,
}

/// The network that this client is counted by; `None` if no share applies.
pub(super) fn network(client: IpAddr) -> Option<IpAddr> {
    let is_here = client.to_canonical().is_loopback();
    (!is_here).then(|| wide_network(client))
}

impl State {
    fn last_of(&self, network: Option<IpAddr>) -> Option<Handed> {
        let handed = self.handed.iter();
        handed.rev().find(|it| Some(it.network) == network).copied()
    }

    /// Whether the bundle is still reserved for networks that wait for their first.
    fn keeps_for_others(&self, now_ms: u64) -> bool {
        let is_new = now_ms.saturating_sub(self.laid_ms) < FIRST_MS;
        let waits = |(_, since_ms): &(IpAddr, u64)| now_ms.saturating_sub(*since_ms) < BARRED_MS;
        is_new && self.waiting.iter().any(waits)
    }

    fn wait(&mut self, network: IpAddr, now_ms: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != network);
        push(&mut self.waiting, (network, now_ms));
    }

    fn hand(&mut self, handed: Handed) {
        self.waiting
            .retain(|(waiting, _)| *waiting != handed.network);
        self.handed.retain(|it| it.network != handed.network);
        push(&mut self.handed, handed);
    }
}

/// Appends an entry, and drops the first one if the list is full.
fn push<T>(queue: &mut VecDeque<T>, one: T) {
    if queue.len() >= NETWORKS_MAX {
        queue.pop_front();
    }
    queue.push_back(one);
}

/// What a client wants to buy.
pub(super) struct Wish<'a> {
    /// On what.
    pub(super) name: &'a Arc<str>,
    /// What is sold there.
    pub(super) offer: &'a Offer,
    /// What of it.
    pub(super) plan: &'a Plan,
    /// The client's network; `None` if no share applies.
    pub(super) network: Option<IpAddr>,
    /// Unix milliseconds.
    pub(super) now_ms: u64,
}

/// What a client gets that cannot be made an invoice now.
pub(super) enum Instead {
    /// The invoice that was laid ready.
    Invoice(Invoice),
    /// Nothing, but there is something else to ask for.
    Other(Arc<str>),
    /// Nothing.
    Nothing,
}

impl LaidReady {
    /// Whether nobody is given it any more.
    pub fn is_gone(&self, now_secs: u64) -> bool {
        self.handed_ms.is_some() || self.bundle.until_secs() <= now_secs
    }
}

impl Bundle {
    /// From when on nobody is given it any more, Unix seconds.
    pub fn until_secs(&self) -> u64 {
        self.invoice.expires_at_secs.saturating_sub(LEFT_SECS_MIN)
    }

    /// Whether it is what is sold as this now.
    pub fn is(&self, plan: &Plan, price: Msat) -> bool {
        self.grant == plan.grant && self.price == price
    }
}

impl Bundles {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        // Whatever panicked in between, it is handed out or not.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there is for somebody to whom the node cannot give an invoice. From here on what is handed out is not there any more.
    pub(super) fn instead(
        &self,
        why: Unready,
        wish: &Wish<'_>,
        is_paid: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Instead {
        // Only what a channel would mend.
        if !matches!(why, Unready::NoChannel | Unready::NoInboundCapacity) {
            return Instead::Nothing;
        }
        let last = self.with(|state| state.last_of(wish.network));
        let is_recent = |it: &Handed| wish.now_ms.saturating_sub(it.at_ms) < BARRED_MS;
        if last.is_some_and(|last| is_recent(&last) && !is_paid(&last.payment_hash)) {
            return Instead::Nothing;
        }
        self.with(|state| {
            // Another request of this network received a bundle in between.
            if state.last_of(wish.network) != last {
                return Instead::Nothing;
            }
            let keeps_for_others = last.is_some() && state.keeps_for_others(wish.now_ms);
            let Some(laid) = state.laid.as_mut() else {
                return Instead::Nothing;
            };
            if laid.is_gone(wish.now_ms / 1_000) {
                laid.was_missed = true;
                if let Some(network) = wish.network.filter(|_| last.is_none()) {
                    state.wait(network, wish.now_ms);
                }
                return Instead::Nothing;
            }
            let bundle = &laid.bundle;
            let is_here = bundle.name == *wish.name && *bundle.is_provider_here.borrow();
            if !is_here || keeps_for_others {
                return Instead::Nothing;
            }
            let plan = match wish.offer.bundle(Some(&bundle.plan)) {
                Ok((plan, price)) if bundle.is(plan, price) => plan,
                // Sold otherwise since, or not at all.
                Ok(_) | Err(_) => return Instead::Nothing,
            };
            if !std::ptr::eq(plan, wish.plan) {
                return Instead::Other(plan.name.clone());
            }
            laid.handed_ms = Some(wish.now_ms);
            let invoice = bundle.invoice.clone();
            if let Some(network) = wish.network {
                state.hand(Handed {
                    network,
                    payment_hash: invoice.payment_hash,
                    at_ms: wish.now_ms,
                });
            }
            Instead::Invoice(invoice)
        })
    }
}

impl Gate {
    /// Has the next client that asks for this bundle get this invoice, once, if the node cannot be paid otherwise. What was laid
    /// ready before is handed to nobody any more.
    pub fn lay_ready(&self, bundle: Bundle) {
        let laid = LaidReady {
            bundle,
            handed_ms: None,
            was_missed: false,
        };
        let now_ms = self.clock.unix_ms();
        self.bundles.with(|state| {
            state.laid = Some(laid);
            state.laid_ms = now_ms;
        });
    }

    /// What was laid ready last.
    pub fn laid_ready(&self) -> Option<LaidReady> {
        self.bundles.with(|state| state.laid.clone())
    }
}
