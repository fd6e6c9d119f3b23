//! Following payments that access tokens have paid for, until the node says how they ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::causes::chain;
use crate::clock::Clock;
use crate::node::{Node, OperationError, Payment, Progress};

use super::spending::Pending;
use super::{Admin, Spending};

/// How often the node is asked if it tells nothing by itself.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How old a payment is that was about to be sent and of which the node has no record, before it is taken for one that was not
/// sent: a kill has come in between. LDK could have sent it all the same if the kill came within the same millisecond.
const UNKNOWN_SECS: u64 = 600;

/// The same for one that was sent and could not be noted: by then no payment is on its way any more (LDK gives one 1,008 blocks at
/// the most).
const UNSURE_SECS: u64 = 14 * 86_400;

/// How many of the node's payments are looked through for one whose id is not known.
const LOOKED_THROUGH: usize = 1_000;

/// Follows payments.
#[derive(Debug)]
pub struct Following {
    /// What was reserved.
    spending: Arc<Spending>,
    /// Says how payments ended.
    node: Arc<Node>,
    /// Where the time comes from.
    clock: Clock,
}

impl Following {
    /// Of what these operators have reserved.
    pub fn of(admin: &Admin) -> Self {
        Self {
            spending: Arc::clone(&admin.spending),
            node: Arc::clone(&admin.node),
            clock: admin.clock.clone(),
        }
    }

    /// Follows them until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut handled = self.node.handled();
        loop {
            handled.mark_unchanged();
            for pending in self.spending.left() {
                if let Some(spent_msat) = self.spent_msat(&pending).await {
                    self.settle(pending.number, spent_msat).await;
                }
            }
            let ask_at = Instant::now() + ASK_EVERY;
            tokio::select! {
                // The node outlives this; if not, time goes on.
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
            // It is asked about again.
            Err(error) => tracing::error!(
                "Failed to note that an access token's payment has ended: {}",
                chain(&error)
            ),
        }
    }

    /// What a payment has cost; `None` while that is not known.
    async fn spent_msat(&self, pending: &Pending) -> Option<u64> {
        if !pending.is_begun {
            return Some(0);
        }
        let payment = match &pending.payment_id {
            Some(payment_id) => match self.node.payment(payment_id).await {
                Ok(payment) => Some(payment),
                Err(OperationError::NoPayment(_)) => None,
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

    /// The payment of an offer, whose id was to be noted when a kill came: the one that fits, and of several one that cost
    /// something.
    async fn of_an_offer(&self, pending: &Pending) -> Result<Option<Payment>, OperationError> {
        let payments = self.node.payments(LOOKED_THROUGH).await?;
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

/// How long a payment of which the node has no record may still have been sent.
fn unknown_secs(is_unsure: bool) -> u64 {
    if is_unsure { UNSURE_SECS } else { UNKNOWN_SECS }
}

/// What a payment has cost that could cost so much at most; `None` while it is under way. What the node does not know counts in full.
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
    fn only_what_has_ended_is_given_back() {
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
