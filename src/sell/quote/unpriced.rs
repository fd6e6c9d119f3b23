//! Why a request has no price.

use std::sync::Arc;

use crate::base::price::{Currency, Fiat};

use super::hook::config::HookError;

/// The reason why a request cannot be priced. `Display` is for the operator; a client reads
/// [`Unpriced::detail`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    /// The settings have no `[[rate]]` for this currency.
    #[error("no rate is set up for {0}")]
    NoRate(Currency),
    /// No source has yet given an acceptable rate.
    #[error("the rate of {0} is not known yet")]
    RateUnknown(Currency),
    /// The last accepted rate is too old to sell at.
    #[error("the rate of {currency} is {age_secs} s old, and too old to sell by")]
    RateTooOld {
        /// The currency of the rate.
        currency: Currency,
        /// Seconds since the sources were asked; 0 if the clock was set back after that.
        age_secs: u64,
    },
    /// The settings have no `[[hook]]` of this name, or no longer have one.
    #[error("there is no price hook {0}")]
    NoHook(Arc<str>),
    /// The price hook gave no price, and the settings say to refuse the sale in that case.
    #[error("the price hook {name} gave no price: {why}")]
    Hook {
        /// The hook's name in the settings.
        name: Arc<str>,
        /// The failure of the hook.
        #[source]
        why: HookError,
    },
    /// The price is worth more than all the bitcoin that will ever exist.
    #[error("{0} comes to more than all the bitcoin that will exist")]
    TooLarge(Fiat),
}

impl Unpriced {
    /// The message for the client. It names neither the server that was asked nor its answer.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::NoRate(_) | Self::NoHook(_) | Self::TooLarge(_) => {
                "this cannot be priced, and nobody but its seller can change that"
            }
            Self::RateUnknown(_) | Self::RateTooOld { .. } => {
                "this cannot be priced now: the rate of its currency is not known; nothing was charged"
            }
            Self::Hook { .. } => "this cannot be priced now; nothing was charged",
        }
    }
}
