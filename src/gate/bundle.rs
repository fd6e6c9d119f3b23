//! A bundle that is laid ready: its invoice was made before anybody asked, because its payment opens a channel, and a challenge
//! never waits for the provider that opens it.
//!
//! It is handed to one client, and never again. Whoever else had a token for the same payment could use up what was bought:
//! the nodes that forward a payment learn its preimage. That it was handed out is remembered in memory only, since a challenge
//! waits for no disk; so after a start nothing is laid ready until another invoice is made.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::amount::Msat;
use crate::invoice::{Invoice, Unready};
use crate::route::{Grant, Offer, Plan};

use super::Gate;

/// What is left to whoever gets it, at least: as long as an invoice can usually be paid.
const LEFT_SECS_MIN: u64 = 600;

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
pub(super) struct Bundles(Mutex<Option<LaidReady>>);

/// What a client wants to buy.
pub(super) struct Wish<'a> {
    /// On what.
    pub(super) name: &'a Arc<str>,
    /// What is sold there.
    pub(super) offer: &'a Offer,
    /// What of it.
    pub(super) plan: &'a Plan,
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
    fn with<T>(&self, look: impl FnOnce(&mut Option<LaidReady>) -> T) -> T {
        // Whatever panicked in between, it is handed out or not.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there is for somebody to whom the node cannot give an invoice. From here on what is handed out is not there any more.
    pub(super) fn instead(&self, why: Unready, wish: &Wish<'_>) -> Instead {
        // Only what a channel would mend.
        if !matches!(why, Unready::NoChannel | Unready::NoInboundCapacity) {
            return Instead::Nothing;
        }
        self.with(|laid| {
            let Some(laid) = laid.as_mut() else {
                return Instead::Nothing;
            };
            if laid.is_gone(wish.now_ms / 1_000) {
                laid.was_missed = true;
                return Instead::Nothing;
            }
            let bundle = &laid.bundle;
            if bundle.name != *wish.name || !*bundle.is_provider_here.borrow() {
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
            Instead::Invoice(bundle.invoice.clone())
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
        self.bundles.with(|old| *old = Some(laid));
    }

    /// What was laid ready last.
    pub fn laid_ready(&self) -> Option<LaidReady> {
        self.bundles.with(|laid| laid.clone())
    }
}
