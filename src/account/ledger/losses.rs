//! Sales that lost their payment on chain. The channel closed before its peer signed a commitment
//! that pays this node, and the peer took the payment back.

use super::error::LedgerError;
use super::record::{RevocationRecord, Revoked, SaleRecord};
use super::state::Ledger;

/// The reason that is recorded with the revoked token.
const REASON: &str = "its payment was taken back on chain";

impl Ledger {
    /// Records that the payment of a sale was lost, and revokes its token. Returns `None` if the
    /// sale does not exist or its loss is already recorded. On return, the record survives a power
    /// cut. Blocks on the disk.
    pub fn lose(&self, payment_hash: &[u8; 32]) -> Result<Option<SaleRecord>, LedgerError> {
        let sale = self.using(|| Ok(self.trees.sales.get(payment_hash)?))?;
        let Some(sale) = sale.filter(|sale| sale.lost_ms.is_none()) else {
            return Ok(None);
        };
        // The revocation comes first, because a valid token costs money. If the program is killed
        // in between, the token opens nothing, and the ledger counts one sale too many.
        if let Some(token_id) = sale.token_id {
            let _: RevocationRecord = self.revoke(Revoked::Token(token_id), REASON)?;
        }
        self.change(|books| {
            let Some(mut sale) = self.trees.sales.get(payment_hash)? else {
                return Ok(None);
            };
            if sale.lost_ms.is_some() {
                return Ok(None);
            }
            sale.lost_ms = Some(self.clock.unix_ms());
            books.totals.lost_msat += sale.amount_msat;
            self.write_sale(books, &sale)?;
            Ok(Some(sale))
        })
    }
}
