//! The deposit address and further addresses. The deposit address is kept in a file. Each sync asks
//! the chain source about every further address, so the further addresses are counted.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use bitcoin::Network;
use bitcoin::address::{Address, NetworkUnchecked};
use ldk_node::payment::{ConfirmationStatus, PaymentDetails, PaymentDirection, PaymentKind};
use serde::{Deserialize, Serialize};

use crate::base::secret_file;
use crate::chain::esplora::{self, Relay};

use super::operation::refused;
use super::wallet_error::WalletError;

/// The maximum number of addresses that a client with the right to bring money in may draw while no
/// money arrives on chain.
///
/// Each address costs one request in every later sync. Of 600 requests an hour, 360 are planned for
/// syncs. So each address makes the pause between two syncs ten seconds longer, and ten addresses
/// make it a hundred seconds longer.
///
/// A restore from the seed words stops after 20 unused addresses in a row (the stop gap of
/// ldk-node), and would not find money on the 21st. Ten more addresses require a confirmed deposit.
/// The code does not check which address was paid, because ldk-node's payments do not name the
/// address. So the gap can still be exceeded, but only as fast as deposits arrive.
const UNPAID_MAX: u32 = 10;

/// Held while an address is added to the file of addresses that were given out.
static GIVING: Mutex<()> = Mutex::new(());

/// The party that draws an address or makes an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// The operator, who knows the cost of each address and invoice.
    ByOperator,
    /// A client with the right to bring money in, but not to spend it.
    ByOthers,
}

/// The number of addresses that were drawn since money last arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Drawn {
    count: u32,
    /// The number of payments that had arrived on chain at the last draw.
    arrived: usize,
}

impl Drawn {
    /// Counts one more address; `None` if the limit is reached.
    fn another(self, arrived: usize, drawing: Drawing) -> Option<Self> {
        let count = if self.arrived == arrived {
            self.count
        } else {
            0
        };
        let may = match drawing {
            Drawing::ByOperator => true,
            Drawing::ByOthers => count < UNPAID_MAX,
        };
        may.then(|| Self {
            count: count.saturating_add(1),
            arrived,
        })
    }
}

/// Draws another address. The caller ensures that only one is drawn at a time.
pub(super) fn another(
    folder: &Path,
    node: &ldk_node::Node,
    relay: Option<&Relay>,
    drawing: Drawing,
) -> Result<String, WalletError> {
    let path = folder.join("addresses.drawn");
    let kept = std::fs::read_to_string(&path).ok();
    let drawn: Drawn = kept
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let arrived = node.list_payments_with_filter(|payment| has_arrived(payment));
    let Some(drawn) = drawn.another(arrived.len(), drawing) else {
        return Err(WalletError::AddressesUnpaid(UNPAID_MAX));
    };
    let text = serde_json::to_string(&drawn).expect("two numbers are JSON");
    // Written before the draw, so that a crash in between makes the count too high, never too low.
    keep(&path, &text);
    let address = node.onchain_payment().new_address();
    let address = address.map_err(refused("draw an address"))?;
    given(folder, relay, &address);
    Ok(address.to_string())
}

/// Whether this payment is a confirmed deposit. An unconfirmed one does not count, because its
/// sender can still cancel it at no cost.
fn has_arrived(payment: &PaymentDetails) -> bool {
    let is_confirmed = matches!(
        payment.kind,
        PaymentKind::Onchain {
            status: ConfirmationStatus::Confirmed { .. },
            ..
        }
    );
    is_confirmed && payment.direction == PaymentDirection::Inbound
}

/// Writes a line to a file with a rename, so that the file never holds an incomplete line.
fn keep(path: &Path, line: &str) {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let kept = std::fs::write(&new, format!("{line}\n")).and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = kept {
        tracing::warn!("Failed to keep {}: {error}", path.display());
    }
}

/// Returns the address for deposits, which is drawn from the wallet once. `None` if the wallet
/// gives no address.
pub(super) fn deposit(
    folder: &Path,
    network: Network,
    node: &ldk_node::Node,
    relay: Option<&Relay>,
) -> Option<String> {
    let path = folder.join("deposit.address");
    let kept = std::fs::read_to_string(&path).ok();
    let kept = kept.and_then(|text| Address::<NetworkUnchecked>::from_str(text.trim()).ok());
    let kept = kept.and_then(|address| address.require_network(network).ok());
    let address = match kept {
        Some(address) => address,
        None => {
            let address = node.onchain_payment().new_address().ok()?;
            keep(&path, &address.to_string());
            address
        }
    };
    if let Some(relay) = relay {
        relay.gives(&address);
    }
    Some(address.to_string())
}

/// Records that this address was given to a payer. From then on every sync asks the chain source
/// about it, even after a restart or a change of the chain source.
pub(super) fn given(folder: &Path, relay: Option<&Relay>, address: &Address) {
    let path = folder.join(esplora::GIVEN);
    let _alone = GIVING.lock().unwrap_or_else(PoisonError::into_inner);
    let line = address.to_string();
    match secret_file::read_list(&path) {
        Ok(lines) if lines.lines().any(|known| known == line) => {}
        Ok(lines) => keep(&path, &(lines + &line)),
        // A new file would not contain the earlier addresses, so none is written.
        Err(error) => tracing::warn!("Failed to read {}: {error}", path.display()),
    }
    if let Some(relay) = relay {
        relay.gives(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_draw_ten_addresses_until_money_arrives_and_the_operator_as_many_as_he_likes() {
        let mut drawn = Drawn::default();
        for _ in 0..UNPAID_MAX {
            drawn = drawn.another(0, Drawing::ByOthers).unwrap();
        }
        assert_eq!(drawn.another(0, Drawing::ByOthers), None);
        let drawn = drawn.another(0, Drawing::ByOperator).unwrap();
        assert_eq!(drawn.count, 11);
        assert_eq!(drawn.another(0, Drawing::ByOthers), None);
        let drawn = drawn.another(1, Drawing::ByOthers).unwrap();
        assert_eq!((drawn.count, drawn.arrived), (1, 1));
    }

    #[test]
    fn each_address_that_was_given_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let address = |byte: u8| {
            let script = bitcoin::Script::from_bytes(&[byte]).to_p2wsh();
            Address::from_script(&script, Network::Regtest).unwrap()
        };
        for byte in [1, 2, 1] {
            given(folder.path(), None, &address(byte));
        }
        let path = folder.path().join(esplora::GIVEN);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, format!("{}\n{}\n", address(1), address(2)));
        std::fs::write(&path, [0xff]).unwrap();
        given(folder.path(), None, &address(3));
        assert_eq!(std::fs::read(&path).unwrap(), [0xff], "not written anew");
    }
}
