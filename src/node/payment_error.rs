//! The errors of payments and invoices of the operator.

use bitcoin::Network;

use crate::base::text::Unseen;
use crate::protocol::invoice::DESCRIPTION_BYTES_MAX;

use super::channel_error::AboveChannels;
use super::map::MapError;
use super::operation::OperationError;

/// The reasons why a payment was not sent, or an invoice not made.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// The node did not do it.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The amount exceeds what the channels can send.
    #[error(transparent)]
    AboveChannels(#[from] AboveChannels),
    /// Finding a path needs the network graph, which is missing.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The amount is zero.
    #[error("the amount is zero")]
    NoAmount,
    /// The text is neither an invoice nor an offer.
    #[error(
        "this is neither a BOLT 11 invoice nor a BOLT 12 offer: a character is wrong or missing"
    )]
    NotPayable,
    /// The payment link contradicts itself or demands something unknown.
    #[error("failed to parse the payment link: {0}")]
    BadLink(&'static str),
    /// The text is an on-chain address, or a link with nothing else.
    #[error("this is an on-chain payment request: use `tollhouse send {0} AMOUNT`")]
    OnlyOnchain(String),
    /// The text is a Lightning address.
    #[error("`{0}` is a Lightning address, not an invoice: request an invoice from the payee")]
    PayeeName(String),
    /// The text is a link to a server that makes invoices.
    #[error("this is an LNURL, not an invoice: request an invoice from the payee")]
    Lnurl,
    /// The invoice or offer is for another network.
    #[error("the invoice or offer is not for {0}, this node's network")]
    PayableElsewhere(Network),
    /// The invoice has expired.
    #[error("the invoice expired {ago_secs} s ago: ask the payee for another one")]
    Expired {
        /// The seconds since the expiry.
        ago_secs: u64,
    },
    /// The invoice or offer leaves the amount open.
    #[error("the invoice or offer names no amount: say how much to pay")]
    AmountMissing,
    /// The invoice names another amount than the operator.
    #[error("the invoice asks for {invoice_msat} msat, not for {asked_msat} msat")]
    OtherAmount {
        /// The amount of the invoice.
        invoice_msat: u64,
        /// The amount that the operator named.
        asked_msat: u64,
    },
    /// The invoice was paid before, or is being paid.
    #[error("this invoice was paid before, or is being paid: an invoice is paid once")]
    PaidBefore,
    /// The invoice is our own.
    #[error("this is an invoice of this very node")]
    OwnInvoice,
    /// The payment does not exist.
    #[error("there is no payment {0}")]
    NoPayment(String),
    /// Too many manual invoices wait for money.
    #[error(
        "{0} invoices that were made by hand wait for money: make one with the operator's own token (each is forgotten 31 days \
         after it was made)"
    )]
    InvoicesUnpaid(usize),
    /// The description does not fit into an invoice.
    #[error("a description has at most {DESCRIPTION_BYTES_MAX} bytes (BOLT 11)")]
    DescriptionTooLong,
    /// The description contains an invisible or misleading character.
    #[error("the description is not valid: {0}")]
    Description(#[from] Unseen),
    /// The expiry is out of range.
    #[error("an invoice can be paid for a minute at least and thirty days at most")]
    Expiry,
}
