//! Actions that only a stranger takes: payments without an invoice, and announced channels.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use anyhow::{Context, Result};
use bitcoin::hashes::{Hash as _, sha256};
use ldk_node::lightning_types::payment::{PaymentHash, PaymentPreimage};

use super::build::Kind;
use super::{PAY_DEADLINE, Paid, PayError, Payer, PayerOptions, Peer};

impl Payer {
    /// Starts a node that can announce its channels; `options` must set a listening address.
    ///
    /// # Errors
    /// When the node cannot be built or its chain source does not answer.
    pub async fn start_announced(options: PayerOptions) -> Result<Self> {
        Self::start_as(options, Kind::Announced).await
    }

    /// Opens an announced channel and waits until its funding is mined.
    ///
    /// # Errors
    /// When the node refuses to open it.
    pub async fn announce_channel(&self, peer: Peer, capacity_sat: u64) -> Result<()> {
        let Peer { node_id, address } = peer;
        let opened = self
            .blocking(move |node| {
                node.open_announced_channel(node_id, address.into(), capacity_sat, None, None)
            })
            .await?;
        opened.context("failed to open an announced channel")?;
        Ok(())
    }

    /// Pays without an invoice and waits until the payment ends.
    ///
    /// # Errors
    /// When the payment fails, or does not end in time.
    pub async fn keysend(&self, to: Peer, amount_msat: u64) -> Result<Paid, PayError> {
        let random = RandomState::new();
        let seed = [0_u64, 1, 2, 3].map(|part| random.hash_one(part).to_be_bytes());
        let preimage = PaymentPreimage(sha256::Hash::hash(&seed.concat()).to_byte_array());
        let hash = PaymentHash(sha256::Hash::hash(&preimage.0).to_byte_array());
        let outcome = self.inner.expect(hash)?;
        let begun = Instant::now();
        let sent = self
            .blocking(move |node| {
                let payment = node.spontaneous_payment();
                payment.send_with_preimage(amount_msat, to.node_id, preimage, None)
            })
            .await;
        if let Ok(Err(error)) = sent {
            self.inner.forget(&hash);
            return Err(PayError::Refused(error));
        }
        match tokio::time::timeout(PAY_DEADLINE, outcome).await {
            Ok(Ok(Ok((preimage, fee_msat)))) => Ok(Paid {
                preimage,
                fee_msat,
                took: begun.elapsed(),
            }),
            Ok(Ok(Err(reason))) => Err(PayError::Failed(reason)),
            Ok(Err(_)) | Err(_) => {
                self.inner.forget(&hash);
                Err(PayError::TimedOut(PAY_DEADLINE))
            }
        }
    }
}
