//! A ready bundle: a grant whose payment also opens a channel to this node. Its invoice is made in
//! advance, because a challenge never waits for the provider that opens the channel.
//!
//! Only one client receives the bundle. A second client with a token for the same payment could use
//! up the grant, because the nodes that forward a payment learn its preimage. The handout is
//! remembered only in memory, because a challenge never waits for the disk. So after a restart no
//! bundle is ready until a new invoice is made.
//!
//! The provider allows only a few bundles a day. A network that received one and did not pay gets
//! no other for a day. A network that received one before waits while others wait for their first.
//! Loopback clients come from a proxy that the settings do not list, so these limits do not apply
//! to them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::base::amount::Msat;
use crate::protocol::invoice::{Invoice, Unready};
use crate::sell::route::{Grant, Offer, Plan};

use super::limit::wide_network;

/// The shortest time that a client has to pay the invoice of a bundle.
pub(super) const LEFT_SECS_MIN: u64 = 600;

/// How long a network that did not pay is refused another bundle.
pub(super) const BARRED_MS: u64 = 86_400_000;

/// How long a new bundle is reserved for waiting networks that never had one. Other clients receive
/// a `Retry-After` of half a minute.
pub(super) const FIRST_MS: u64 = 5 * 60 * 1_000;

/// The most networks in each list. This covers more than a week of six bundles a day, and limits
/// the memory that a flood of addresses can take.
pub(super) const NETWORKS_MAX: usize = 64;

/// A bundle and the invoice that was made for it.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The route that sells the bundle, as named in the ledger and the log.
    pub name: Arc<str>,
    /// The name of the plan on its route.
    pub plan: Arc<str>,
    /// The grant that the payment buys.
    pub grant: Grant,
    /// The price of the grant.
    pub price: Msat,
    /// The invoice.
    pub invoice: Invoice,
    /// Whether the provider that opens the channel is connected.
    pub is_provider_here: watch::Receiver<bool>,
}

/// A ready bundle, and whether a client received it.
#[derive(Clone, Debug)]
pub struct LaidReady {
    /// The bundle.
    pub bundle: Bundle,
    /// When a client received the bundle, in Unix milliseconds.
    pub handed_ms: Option<u64>,
    /// Whether a client was refused an invoice after this bundle was gone.
    pub was_missed: bool,
}

/// The ready bundle and the networks that received or await one. A `std` mutex: held for a look-up,
/// never across an await.
#[derive(Debug, Default)]
pub(super) struct Bundles(Mutex<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) laid: Option<LaidReady>,
    /// When the bundle was made ready, in Unix milliseconds.
    pub(super) laid_ms: u64,
    /// The networks that received a bundle, each once, the most recent last.
    pub(super) handed: VecDeque<Handed>,
    /// The networks that wait for their first bundle, each with the start of its wait in Unix
    /// milliseconds.
    pub(super) waiting: VecDeque<(IpAddr, u64)>,
}

/// The last bundle that a network received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    network: IpAddr,
    payment_hash: [u8; 32],
    /// When the network received the bundle, in Unix milliseconds.
    at_ms: u64,
}

/// The network that this client is counted under; `None` if no limit applies.
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
pub(super) fn push<T>(queue: &mut VecDeque<T>, one: T) {
    if queue.len() >= NETWORKS_MAX {
        queue.pop_front();
    }
    queue.push_back(one);
}

/// A client's request to buy a plan.
pub(super) struct Wish<'a> {
    /// The name of the route.
    pub(super) name: &'a Arc<str>,
    /// The offer of the route.
    pub(super) offer: &'a Offer,
    /// The plan that the client chose.
    pub(super) plan: &'a Plan,
    /// The client's network; `None` if no limit applies.
    pub(super) network: Option<IpAddr>,
    /// The time of the request, in Unix milliseconds.
    pub(super) now_ms: u64,
}

/// The answer for a client while the node cannot be paid.
pub(super) enum Instead {
    /// The invoice of the ready bundle.
    Invoice(Invoice),
    /// No invoice, but the plan of this name is available.
    Other(Arc<str>),
    /// Nothing is available.
    Nothing,
}

impl LaidReady {
    /// Whether this bundle went to a client or is too close to its expiry.
    pub fn is_gone(&self, now_secs: u64) -> bool {
        self.handed_ms.is_some() || self.bundle.until_secs() <= now_secs
    }
}

impl Bundle {
    /// When this bundle stops being available to clients, in Unix seconds.
    pub fn until_secs(&self) -> u64 {
        self.invoice.expires_at_secs.saturating_sub(LEFT_SECS_MIN)
    }

    /// Whether this bundle is still on sale under this plan and at this price.
    pub fn is(&self, plan: &Plan, price: Msat) -> bool {
        self.grant == plan.grant && self.price == price
    }
}

impl Bundles {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        // After a panic the bundle is either handed out or not, so the state is valid.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what a client can buy while the node cannot be paid. A bundle whose invoice is
    /// returned goes to no other client.
    pub(super) fn instead(
        &self,
        why: Unready,
        wish: &Wish<'_>,
        is_paid: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Instead {
        // A bundle helps only if the node lacks a channel or inbound liquidity.
        if !matches!(why, Unready::NoChannel | Unready::NoInboundCapacity) {
            return Instead::Nothing;
        }
        let last = self.with(|state| state.last_of(wish.network));
        let is_recent = |it: &Handed| wish.now_ms.saturating_sub(it.at_ms) < BARRED_MS;
        if last.is_some_and(|last| is_recent(&last) && !is_paid(&last.payment_hash)) {
            return Instead::Nothing;
        }
        self.with(|state| {
            // Another request of this network received a bundle in the meantime.
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
                // The plan or its price has changed, or the sale has ended.
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
