//! An estimate of how many more sales the inbound liquidity allows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::account::ledger::record::SaleRecord;
use crate::base::amount::Msat;
use crate::protocol::invoice::Inbound;
use crate::sell::quote::Rates;
use crate::sell::route::{Access, Offer, RouteTable};

/// The number of sales for the average price. Only recent sales count, because prices change.
pub(super) const RECENT_SALES: usize = 100;

/// How many more sales the inbound liquidity allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outlook {
    /// The highest price in msat, with prices in a currency converted at their current rate. `None`
    /// if all prices come from hooks or have no rate.
    pub dearest_msat: Option<u64>,
    /// The approximate number of further sales at that price.
    pub sales_at_dearest: Option<u64>,
    /// The average price of the last sales, in msat; `None` before the first sale.
    pub average_msat: Option<u64>,
    /// The approximate number of further sales at the average price.
    pub sales_at_average: Option<u64>,
    /// Whether fewer than `node.liquidity.low_sales` sales are left at the highest price, or at the
    /// average price if the highest is unknown.
    pub is_low: bool,
}

impl Outlook {
    /// Computes the outlook with these prices. The counts are approximate: the remaining liquidity
    /// is rarely an exact multiple of a price, and one payment may not fit into it.
    pub fn of(
        inbound_msat: u64,
        dearest: Option<Msat>,
        average: Option<Msat>,
        low_sales: u32,
    ) -> Self {
        let sales = |price: Option<Msat>| inbound_msat.checked_div(price?.msat());
        let (at_dearest, at_average) = (sales(dearest), sales(average));
        Self {
            dearest_msat: dearest.map(Msat::msat),
            sales_at_dearest: at_dearest,
            average_msat: average.map(Msat::msat),
            sales_at_average: at_average,
            is_low: at_dearest
                .or(at_average)
                .is_some_and(|sales| sales < u64::from(low_sales)),
        }
    }
}

/// The highest of all prices that are known now. Prices from hooks and prices without a rate are
/// unknown.
pub fn dearest(routes: &RouteTable, guarded: &[Offer], rates: &Rates) -> Option<Msat> {
    let of_routes = routes.iter().filter_map(|route| match &route.access {
        Access::Free => None,
        Access::Paid(offer) => Some(&**offer),
    });
    let prices = of_routes.chain(guarded).flat_map(Offer::prices);
    let known = prices.filter_map(|price| rates.in_msat(price).ok());
    known.map(|(amount, _)| amount).max()
}

/// The average price of these sales.
pub(super) fn average(sales: &[SaleRecord]) -> Option<Msat> {
    let sum: u64 = sales.iter().map(|sale| sale.amount_msat).sum();
    Msat::new(sum.checked_div(sales.len() as u64)?)
}

/// Detects when inbound liquidity gets low and when it suffices again, so that each is logged once.
/// The capacity changes with every sale.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    is_low: bool,
}

/// A change that the log reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The inbound liquidity has become low.
    Low,
    /// The inbound liquidity suffices again.
    Enough,
}

impl Watch {
    /// Compares the capacity with the limit and returns a change if there is one. The capacity
    /// counts as enough only from 25 % above the limit, so that single payments do not cause a
    /// change each.
    pub fn look(
        &mut self,
        inbound: &Inbound,
        dearest: Option<Msat>,
        low_sales: u32,
    ) -> Option<Turn> {
        let low_msat = dearest?.msat().saturating_mul(u64::from(low_sales));
        let enough_msat = low_msat.saturating_add(low_msat / 4);
        let capacity_msat = inbound.capacity_msat;
        if !self.is_low && capacity_msat < low_msat {
            self.is_low = true;
            return Some(Turn::Low);
        }
        if self.is_low && capacity_msat >= enough_msat {
            self.is_low = false;
            return Some(Turn::Enough);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sat(sat: u64) -> Option<Msat> {
        Msat::from_sat(sat)
    }

    fn inbound(sat: u64) -> Inbound {
        Inbound {
            capacity_msat: sat * 1_000,
            ..Inbound::default()
        }
    }

    #[test]
    fn the_outlook_counts_by_the_dearest_price_and_by_the_average_one() {
        let outlook = Outlook::of(1_000_000, sat(100), sat(10), 20);
        assert_eq!(outlook.sales_at_dearest, Some(10));
        assert_eq!(outlook.sales_at_average, Some(100));
        assert!(outlook.is_low);
        let unknown = Outlook::of(1_000_000, None, None, 20);
        assert_eq!((unknown.sales_at_dearest, unknown.is_low), (None, false));
        assert!(!Outlook::of(0, sat(100), None, 0).is_low, "never warned");
        assert!(Outlook::of(0, None, sat(1), 1).is_low);
    }

    #[test]
    fn an_average_of_no_sales_is_none() {
        let sale = |amount_msat| SaleRecord {
            amount_msat,
            ..SaleRecord::default()
        };
        assert_eq!(average(&[]), None);
        assert_eq!(average(&[sale(1_000), sale(2_000)]), Msat::new(1_500));
    }

    #[test]
    fn a_turn_is_said_once_in_each_direction() {
        let mut watch = Watch::default();
        let turns: Vec<_> = [300, 250, 199, 198, 210, 249, 250, 251, 100]
            .into_iter()
            .map(|now| watch.look(&inbound(now), sat(10), 20))
            .collect();
        let mut expected = vec![None; 9];
        expected[2] = Some(Turn::Low);
        expected[6] = Some(Turn::Enough);
        expected[8] = Some(Turn::Low);
        assert_eq!(turns, expected);
        assert_eq!(Watch::default().look(&inbound(0), None, 20), None);
        assert_eq!(Watch::default().look(&inbound(0), sat(10), 0), None);
    }
}
