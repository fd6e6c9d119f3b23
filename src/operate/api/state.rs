//! The state of the program: whether it answers, whether the node can receive payments, and the
//! full status of node, channels and sales.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::ledger::record::{ActivationTotals, ChannelRecord, Totals};
use crate::node::Status;
use crate::operate::backup::BackupStatus;
use crate::protocol::invoice::{Inbound, Reach};
use crate::sell::http::TlsSource;
use crate::sell::quote::{HookStatus, RateStatus, Rates, Unpriced};
use crate::sell::resource::ServerStatus;
use crate::sell::route::{Access, Offer, RouteTable};

use super::admin::Admin;
use super::answering::blocking;
use super::fault::Fault;
use super::outlook::{self, Outlook};

/// The number of closed channels in the status. The ledger keeps all of them.
const CLOSURES_SHOWN: usize = 100;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    uptime_secs: u64,
}

/// Answers 200 while the process is running.
#[utoipa::path(get, path = "/health", tag = "state", responses((status = 200, body = Health)))]
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin
            .clock
            .since_boot()
            .as_secs()
            .saturating_sub(admin.started_secs),
    })
}

/// Whether challenges can be paid now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// The reason why they cannot be paid, if they cannot.
    reason: Option<String>,
    /// The amount that the node can receive now, in msat.
    inbound_msat: u64,
    /// Routes and guarded services with a price that cannot be received now or that has no exchange
    /// rate.
    unpayable_routes: Vec<String>,
}

/// Answers 200 if every price can be paid now, else 503 with the reason.
///
/// Prices in a currency count by their current rate. Prices that a hook sets are not checked,
/// because a hook is asked only when a client requests the route.
#[utoipa::path(
    get, path = "/ready", tag = "state",
    responses((status = 200, body = Ready), (status = 503, body = Ready))
)]
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reach = admin.node.reach().borrow().clone();
    let ready = match reach {
        Reach::Unready(why) => Ready {
            ready: false,
            reason: Some(why.to_string()),
            inbound_msat: 0,
            unpayable_routes: vec![],
        },
        Reach::Ready(inbound) => {
            let (routes, guarded) = (admin.routes.get(), admin.guarded.get());
            let unpayable = unpayable(&routes, &guarded, &inbound, &admin.gate.quotes().rates);
            Ready {
                ready: unpayable.is_empty(),
                reason: reason(&unpayable, &inbound),
                inbound_msat: inbound.capacity_msat,
                unpayable_routes: unpayable.into_iter().map(|it| it.name).collect(),
            }
        }
    };
    let status = if ready.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(ready)).into_response()
}

/// A route or guarded service that cannot be bought now.
#[derive(Debug, PartialEq, Eq)]
struct Unpayable {
    /// The name of the route or service.
    name: String,
    /// Why one of its prices is unknown; `None` if all prices are known and one cannot be received.
    unpriced: Option<Unpriced>,
}

/// The routes and guarded services with a price that is unknown now or cannot be received.
fn unpayable(
    routes: &RouteTable,
    guarded: &[Offer],
    inbound: &Inbound,
    rates: &Rates,
) -> Vec<Unpayable> {
    let of_routes = routes.iter().filter_map(|route| match &route.access {
        Access::Free => None,
        Access::Paid(offer) => Some((&route.name, &**offer)),
    });
    let of_guards = guarded.iter().map(|offer| (&offer.service, offer));
    of_routes
        .chain(of_guards)
        .filter_map(|(name, offer)| {
            let unpriced = offer
                .prices()
                .find_map(|price| match rates.in_msat(price) {
                    Ok((amount, _)) if inbound.takes(amount) => None,
                    Ok(_) => Some(None),
                    Err(unpriced) => Some(Some(unpriced)),
                })?;
            Some(Unpayable {
                name: name.to_string(),
                unpriced,
            })
        })
        .collect()
}

/// The reason why these cannot be bought, in one line; `None` if all can be bought.
fn reason(unpayable: &[Unpayable], inbound: &Inbound) -> Option<String> {
    let (unknown, known): (Vec<_>, Vec<_>) = unpayable.iter().partition(|it| it.unpriced.is_some());
    let mut reasons = Vec::new();
    if !known.is_empty() {
        let names: Vec<_> = known.iter().map(|it| &*it.name).collect();
        reasons.push(format!(
            "the price of {} cannot be received: {} msat can arrive",
            names.join(", "),
            inbound.capacity_msat
        ));
    }
    reasons.extend(unknown.iter().filter_map(|it| {
        let unpriced = it.unpriced.as_ref()?;
        Some(format!("the price of {} is not known: {unpriced}", it.name))
    }));
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusBody {
    version: &'static str,
    uptime_secs: u64,
    data_dir: String,
    node: NodeBody,
    sales: Totals,
    backup: BackupStatus,
    /// The sums of payments that opened channels. They do not count as sales.
    activations: ActivationTotals,
    /// How many more sales the inbound liquidity allows.
    outlook: Outlook,
    /// Challenges in memory, including paid ones. Each stays until its invoice can no longer be
    /// paid.
    challenges_open: usize,
    dry_run: DryRunBody,
    /// The exchange rates of the currencies in prices.
    rates: Vec<RateStatus>,
    /// The hooks, which are servers that set the price of a request.
    hooks: Vec<HookStatus>,
    /// The upstream servers of the routes.
    upstreams: Vec<ServerStatus>,
    /// The listeners' certificates.
    certificates: Vec<CertificateBody>,
    /// Log lines lost since the start because the log could not be written.
    log_lines_dropped: u64,
}

/// A certificate on disk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateBody {
    /// The settings key that names it.
    key: &'static str,
    /// When the certificate expires, Unix seconds; `null` if the authority has not issued one yet.
    until_secs: Option<u64>,
    /// The DNS names that the certificate covers.
    names: Vec<String>,
    /// Why the certificate must be renewed now, if it must.
    complaint: Option<String>,
}

impl CertificateBody {
    fn of((key, source): &(&'static str, TlsSource), now_secs: u64) -> Self {
        let certificate = source.certificate();
        Self {
            key,
            until_secs: certificate.as_ref().map(|it| it.until_secs),
            complaint: certificate.as_ref().and_then(|it| it.complaint(now_secs)),
            names: certificate.map_or_else(Vec::new, |it| it.names),
        }
    }
}

/// The requests to dry-run routes since the start, and the amount that they would have cost.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRunBody {
    requests: u64,
    amount_msat: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeBody {
    #[serde(flatten)]
    status: Status,
    /// Closed channels, the newest first.
    channels_closed: Vec<ChannelRecord>,
}

/// Shows node, channels, money and sales in one answer.
#[utoipa::path(get, path = "/status", tag = "state", responses((status = 200, body = StatusBody)))]
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<StatusBody>, Fault> {
    let asked = Arc::clone(&admin);
    let status = admin.node.status(&admin.ledger).await;
    // Reading the store blocks, so it must not run on a thread that serves requests.
    let (node, sales, backup, activations, recent, certificates) = blocking(move || {
        let node = NodeBody {
            status,
            channels_closed: asked.ledger.closed_channels(CLOSURES_SHOWN)?,
        };
        let backup = asked.backups.status()?;
        let (_, activations) = asked.ledger.activations(0)?;
        let recent = asked.ledger.sales(None, outlook::RECENT_SALES)?.sales;
        let now_secs = asked.clock.unix_secs();
        let certificates = asked.certificates.iter();
        let certificates: Vec<_> = certificates
            .map(|it| CertificateBody::of(it, now_secs))
            .collect();
        let totals = asked.ledger.totals();
        Ok((node, totals, backup, activations, recent, certificates))
    })
    .await?;
    let (quotes, dry_run) = (admin.gate.quotes(), admin.gate.dry_run());
    let outlook = Outlook::of(
        node.status.inbound_msat,
        outlook::dearest(&admin.routes.get(), &admin.guarded.get(), &quotes.rates),
        outlook::average(&recent),
        admin.low_sales,
    );
    Ok(Json(StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin
            .clock
            .since_boot()
            .as_secs()
            .saturating_sub(admin.started_secs),
        data_dir: admin.data_dir.display().to_string(),
        node,
        sales,
        backup,
        activations,
        outlook,
        challenges_open: admin.ledger.challenge_count(),
        dry_run: DryRunBody {
            requests: dry_run.requests,
            amount_msat: dry_run.amount_msat,
        },
        rates: quotes.rates.status(),
        hooks: quotes.hooks.status(),
        upstreams: admin.shop.get().resources.status(),
        certificates,
        log_lines_dropped: crate::base::log::dropped(),
    }))
}

/// Syncs the node with the chain now.
#[utoipa::path(post, path = "/sync", tag = "state", responses((status = 204)))]
pub(super) async fn sync(State(admin): State<Arc<Admin>>) -> Result<StatusCode, Fault> {
    admin.node.sync().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;
    use crate::base::price::Rate;
    use crate::sell::quote::{RateConfig, RateOrigin, Watched};
    use crate::sell::route::Grant;

    fn offer(service: &str, price: &str) -> Offer {
        Offer::new(service, price.parse().unwrap(), Grant::default())
    }

    fn inbound(capacity_msat: u64) -> Inbound {
        Inbound {
            capacity_msat,
            ..Inbound::default()
        }
    }

    /// Rates with a fixed dollar of 1,000 sat, and a euro whose source has not answered yet.
    fn rates() -> Rates {
        let usd = "USD".parse().unwrap();
        let rate = |currency, origin| RateConfig { currency, origin };
        let fixed = RateOrigin::Fixed(Rate::read(usd, "100000").unwrap());
        let unasked = RateOrigin::Watched(Watched {
            sources: Vec::new(),
            quorum: 1,
            refresh: Duration::from_secs(60),
            timeout: Duration::from_secs(1),
            max_age: Duration::from_secs(600),
            at_least: None,
            at_most: None,
        });
        let configs = vec![rate(usd, fixed), rate("EUR".parse().unwrap(), unasked)];
        Rates::new(configs, Clock::fixed(1_800_000_000))
    }

    /// The names of the offers that cannot be bought with this inbound liquidity.
    fn not_ready(guarded: &[Offer], inbound: &Inbound) -> Vec<String> {
        let unpayable = unpayable(&RouteTable::default(), guarded, inbound, &rates());
        unpayable.into_iter().map(|it| it.name).collect()
    }

    #[test]
    fn what_is_guarded_for_more_than_can_arrive_is_not_ready() {
        let guarded = [offer("cheap", "10 sat"), offer("dear", "11 sat")];
        assert_eq!(not_ready(&guarded, &inbound(10_000)), ["dear"]);
    }

    #[test]
    fn what_is_sold_for_less_than_a_channel_takes_is_not_ready() {
        let inbound = Inbound {
            htlc_minimum_msat: 1_000,
            ..inbound(10_000)
        };
        let guarded = [offer("tiny", "999 msat"), offer("small", "1 sat")];
        assert_eq!(not_ready(&guarded, &inbound), ["tiny"]);
    }

    #[test]
    fn a_price_in_a_currency_is_ready_only_if_what_it_is_in_bitcoin_can_arrive() {
        let guarded = [offer("cent", "0.01 USD"), offer("dime", "0.10 USD")];
        assert_eq!(not_ready(&guarded, &inbound(10_000)), ["dime"]);
        assert_eq!(not_ready(&guarded, &inbound(100_000)), [""; 0]);
        let dearest = outlook::dearest(&RouteTable::default(), &guarded, &rates());
        assert_eq!(dearest.map(crate::base::amount::Msat::msat), Some(100_000));
    }

    #[test]
    fn a_price_without_a_rate_is_not_ready_and_the_reason_says_so() {
        let guarded = [
            offer("known", "1 sat"),
            offer("asked", "1 EUR"),
            offer("dear", "11 sat"),
        ];
        let inbound = inbound(10_000);
        let unpayable = unpayable(&RouteTable::default(), &guarded, &inbound, &rates());
        assert_eq!(
            reason(&unpayable, &inbound).unwrap(),
            "the price of dear cannot be received: 10000 msat can arrive; \
             the price of asked is not known: the rate of EUR is not known yet"
        );
        assert_eq!(reason(&[], &inbound), None);
    }
}
