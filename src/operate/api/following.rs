//! Follows payments that access tokens have sent, until the node reports how they ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::node::{Node, Payment, PaymentError, Progress};

use super::admin::Admin;
use super::spending::{Pending, Spending};

/// How often the payments are checked if the node reports no events.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// The age at which a payment without a record at the node counts as not sent, because the program
/// was killed in between. If the kill came within the same millisecond, LDK may still have sent the
/// payment.
const UNKNOWN_SECS: u64 = 600;

/// The same age for a payment that may have been sent although its record was not written. By then
/// the payment has ended: LDK lets a payment run for 1,008 blocks at most.
const UNSURE_SECS: u64 = 14 * 86_400;

/// The number of the node's payments to search for a payment whose id is unknown.
const LOOKED_THROUGH: usize = 1_000;

/// Follows reserved payments and settles their reservations.
#[derive(Debug)]
pub struct Following {
    /// The reservations to settle.
    spending: Arc<Spending>,
    /// The node that made the payments.
    node: Arc<Node>,
    /// The source of the time.
    clock: Clock,
}

impl Following {
    /// Follows the reservations of this operator API.
    pub fn of(admin: &Admin) -> Self {
        Self {
            spending: Arc::clone(&admin.spending),
            node: Arc::clone(&admin.node),
            clock: admin.clock.clone(),
        }
    }

    /// Follows the reservations until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut handled = self.node.payments().handled();
        loop {
            handled.mark_unchanged();
            for pending in self.spending.left() {
                if let Some(spent_msat) = self.spent_msat(&pending).await {
                    self.settle(pending.number, spent_msat).await;
                }
            }
            let ask_at = Instant::now() + ASK_EVERY;
            tokio::select! {
                // The channel closes only if the node is gone. Then the task continues on its
                // timer.
                changed = handled.changed() => if changed.is_err() { sleep_until(ask_at).await },
                () = self.spending.is_left() => {}
                () = sleep_until(ask_at) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn settle(&self, number: u64, spent_msat: u64) {
        let spending = Arc::clone(&self.spending);
        let settling = tokio::task::spawn_blocking(move || spending.settle(number, spent_msat));
        match settling.await.expect("writing a file does not panic") {
            Ok(()) => {
                tracing::info!("A payment of an access token has ended: {spent_msat} msat spent")
            }
            // The next round retries.
            Err(error) => tracing::error!(
                "Failed to record the end of an access token's payment: {}",
                chain(&error)
            ),
        }
    }

    /// The cost of a payment; `None` while the cost is not known.
    async fn spent_msat(&self, pending: &Pending) -> Option<u64> {
        if !pending.is_begun {
            return Some(0);
        }
        let payment = match &pending.payment_id {
            Some(payment_id) => match self.node.payments().get(payment_id).await {
                Ok(payment) => Some(payment),
                Err(PaymentError::NoPayment(_)) => None,
                Err(_) => return None,
            },
            None => match self.of_an_offer(pending).await {
                Ok(found) => found,
                Err(_) => return None,
            },
        };
        let age_secs = self.clock.unix_secs().saturating_sub(pending.made_secs);
        match payment {
            Some(payment) => spent(&payment, pending.most_msat),
            None if age_secs < unknown_secs(pending.is_unsure) => None,
            None => Some(0),
        }
    }

    /// Finds an offer's payment if the program was killed before it wrote the id. Of several
    /// matching payments, prefers one that did not fail.
    async fn of_an_offer(&self, pending: &Pending) -> Result<Option<Payment>, PaymentError> {
        let payments = self.node.payments().list(LOOKED_THROUGH).await?;
        let mut fitting: Vec<_> = payments
            .into_iter()
            .filter(|payment| {
                payment.is_outbound
                    && payment.kind == "bolt12"
                    && payment.amount_msat == Some(pending.amount_msat)
                    && payment.updated_secs >= pending.made_secs
            })
            .collect();
        fitting.sort_by_key(|payment| payment.status == Progress::Failed);
        Ok(fitting.into_iter().next())
    }
}

/// If the node has no record of a payment, the age in seconds at which the payment counts as not
/// sent.
fn unknown_secs(is_unsure: bool) -> u64 {
    if is_unsure { UNSURE_SECS } else { UNKNOWN_SECS }
}

/// The cost of a payment with the maximum cost `most_msat`; `None` while it is pending. If the node
/// does not know the cost, the maximum counts.
pub(super) fn spent(payment: &Payment, most_msat: u64) -> Option<u64> {
    match (payment.status, payment.amount_msat, payment.fee_msat) {
        (Progress::Pending, _, _) => None,
        (Progress::Failed, _, _) => Some(0),
        (Progress::Succeeded, Some(amount_msat), Some(fee_msat)) => {
            Some(amount_msat.saturating_add(fee_msat))
        }
        (Progress::Succeeded, _, _) => Some(most_msat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_ends_only_with_its_payment() {
        let payment = |status, fee_msat| Payment {
            payment_id: String::new(),
            kind: "bolt11",
            is_outbound: true,
            status,
            amount_msat: Some(1_000),
            fee_msat,
            hash: None,
            preimage: None,
            updated_secs: 0,
        };
        for (status, fee_msat, spent_msat) in [
            (Progress::Succeeded, Some(7), Some(1_007)),
            (Progress::Succeeded, None, Some(1_100)),
            (Progress::Pending, None, None),
            (Progress::Failed, None, Some(0)),
        ] {
            assert_eq!(spent(&payment(status, fee_msat), 1_100), spent_msat);
        }
    }
}
