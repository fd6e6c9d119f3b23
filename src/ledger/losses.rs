//! Sales whose payment was lost on chain: a channel was closed before its peer had signed the payment away, and the peer has
//! taken it back.

use super::record::{RevocationRecord, Revoked, SaleRecord};
use super::{Ledger, LedgerError};

/// What the token of such a sale is revoked for.
const REASON: &str = "its payment was taken back on chain";

impl Ledger {
    /// Enters that the payment of a sale was lost, and revokes its token. `None` if there is no such sale, or if that is known.
    /// On return it would survive a power cut. Blocks on the disk.
    pub fn lose(&self, payment_hash: &[u8; 32]) -> Result<Option<SaleRecord>, LedgerError> {
        let sale = self.using(|| Ok(self.trees.sales.get(payment_hash)?))?;
        let Some(sale) = sale.filter(|sale| sale.lost_ms.is_none()) else {
            return Ok(None);
        };
        // First what costs money: killed in between, the token opens nothing, and the books show a sale too many.
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
