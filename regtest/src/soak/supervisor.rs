//! Restarts the merchant after it exits by itself, as an init system does.
//!
//! Tollhouse ends with a reason when something in its node is dead and only a new start can mend it. One such end is known: LDK
//! panics when a payment times out at the very moment at which the peer signs it ("Cannot use both `ChannelMonitorUpdateStatus`
//! modes", lightning 0.2). Nothing may be lost by it.

use anyhow::{Context, Result, bail};

use super::Soak;

/// A merchant that ends by itself more often than this is broken.
const ENDS_MAX: u64 = 10;

impl Soak {
    /// Waits until the merchant is up and has a channel. Returns how many channels were opened in place of closed ones.
    pub(super) async fn come_up(&mut self) -> Result<u64> {
        let up = self.open_again().await;
        match up {
            Ok(reopened) => Ok(reopened),
            Err(error) => self.revive().await?.ok_or(error),
        }
    }

    /// Starts the merchant again if it has ended by itself, and counts it. Returns how many channels were opened in place of
    /// closed ones, and `None` if it had not ended.
    pub(super) async fn revive(&mut self) -> Result<Option<u64>> {
        let merchant = &mut self.network.merchant;
        let Some(ended) = merchant.take_ended()? else {
            return Ok(None);
        };
        let told = format!("the merchant ended by itself with {ended}");
        self.outcome.ended_by_itself += 1;
        if self.outcome.ended_by_itself > ENDS_MAX {
            bail!(
                "{told}, and more than {ENDS_MAX} times: {}",
                merchant.log_tail()
            );
        }
        (self.options.tell)(&format!("{told}, and is started again"));
        merchant.restart().await?;
        let reopened = self.open_again().await.context(told)?;
        Ok(Some(reopened))
    }

    async fn open_again(&mut self) -> Result<u64> {
        self.network.merchant.wait_up().await?;
        let reopened = self.network.ensure_channel().await? as u64;
        self.reopened += reopened;
        self.know_channels();
        Ok(reopened)
    }
}
