//! The errors of operations on the on-chain wallet.

use bitcoin::{Network, Txid};
use lightning::ln::types::ChannelId;

use super::operation::OperationError;

/// The reasons why the wallet can make no transaction now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoinsInUse {
    /// A transaction was sent and is not seen yet.
    #[error(
        "transaction {0} was sent before and is not seen on the chain yet: try again in a minute or two"
    )]
    Sent(Txid),
    /// A channel is being opened.
    #[error(
        "a channel is being opened, and its peer has not answered yet: try again in a minute, or close it if that peer stays silent"
    )]
    Opening,
    /// A splice waits for the agreement of the peer.
    #[error(
        "a splice is being agreed on with the peer of channel {0}: try again in a minute or two, or close that channel if its peer \
         stays silent"
    )]
    Splicing(ChannelId),
    /// The chain was not read since the last transaction.
    #[error("what was sent before is not known: the chain was not read since then")]
    Unread,
}

/// The reasons why the wallet did not do what was asked. Nothing was sent, unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The node did not do it.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The wallet's previous transaction has to be seen first.
    #[error(transparent)]
    CoinsInUse(#[from] CoinsInUse),
    /// The chain source refuses the transaction.
    #[error("the chain source does not take the transaction ({words}): nothing was sent")]
    NotTaken {
        /// The reason, in the chain source's own words.
        words: String,
    },
    /// No endpoint has accepted the transaction, and not all of them have answered.
    #[error(
        "transaction {txid} is made, and it is not known whether it is on its way ({why}). It is sent again by itself until \
         it is seen, for two minutes at least: look at the balance before you send anything else"
    )]
    NotTakenYet {
        /// The transaction.
        txid: bitcoin::Txid,
        /// The answers so far.
        why: String,
    },
    /// The text is not a valid address.
    #[error("`{0}` is no bitcoin address: a character is wrong or missing")]
    NotAnAddress(String),
    /// The address belongs to another network, so the money would be lost.
    #[error("the address is not one of {0}, this node's network: nothing was sent")]
    OtherNetwork(Network),
    /// The amount is zero.
    #[error("the amount is zero")]
    NoAmount,
    /// The amount exceeds the on-chain balance.
    #[error(
        "{asked_sat} sat are more than the {spendable_sat} sat that can be spent on chain now ({unconfirmed_sat} sat wait for \
         confirmations, {reserved_sat} sat are kept to pay for closing channels)"
    )]
    AboveOnchain {
        /// The requested amount.
        asked_sat: u64,
        /// The amount that can be spent.
        spendable_sat: u64,
        /// The unconfirmed amount.
        unconfirmed_sat: u64,
        /// The reserve for closing channels.
        reserved_sat: u64,
    },
    /// The amount fits, but leaves nothing for the fee.
    #[error(
        "{asked_sat} sat and {besides} are more than the {spendable_sat} sat that can be spent on chain now \
         ({unconfirmed_sat} sat wait for confirmations, {reserved_sat} sat are kept to pay for closing channels): send less, or all of it"
    )]
    AboveOnchainWithFee {
        /// The requested amount.
        asked_sat: u64,
        /// The name of the additional cost, for the message.
        besides: &'static str,
        /// The amount that can be spent.
        spendable_sat: u64,
        /// The unconfirmed amount.
        unconfirmed_sat: u64,
        /// The reserve for closing channels.
        reserved_sat: u64,
    },
    /// The balance does not even cover the fee.
    #[error(
        "the {spendable_sat} sat that can be spent on chain now do not cover a transaction ({unconfirmed_sat} sat wait for \
         confirmations, {reserved_sat} sat are kept to pay for closing channels)"
    )]
    NothingOnchain {
        /// The amount that can be spent.
        spendable_sat: u64,
        /// The unconfirmed amount.
        unconfirmed_sat: u64,
        /// The reserve for closing channels.
        reserved_sat: u64,
    },
    /// Too many drawn addresses wait for money.
    #[error(
        "{0} addresses were drawn since money last arrived on the chain: hand one of them out again, use the deposit address of the \
         status, or draw one with the operator's own token (each is asked for at the chain source from then on)"
    )]
    AddressesUnpaid(u32),
    /// The fee rate is missing or out of range.
    #[error("{0}")]
    FeeRate(&'static str),
}
