//! What the operator has the node do: how it is asked for, and why it may not be done.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, Txid};
use lightning::ln::types::ChannelId;

use super::map::MapError;
use super::{Node, NodeUnavailable};
use crate::base::text::Unseen;
use crate::protocol::invoice::DESCRIPTION_BYTES_MAX;

/// How long the operator waits for a peer or the chain source; ldk-node itself would wait for as long as a peer keeps silent.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the operator waits for what is only read, which takes milliseconds: longer only while the node waits for its store, for
/// a disk or for the server of node.vss, under the locks that reading takes.
pub(super) const READ_MAX: Duration = Duration::from_millis(1_500);

/// Why nothing can be made out of the wallet now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoinsInUse {
    /// A transaction is on its way.
    #[error(
        "transaction {0} was sent before and is not seen on the chain yet: try again in a minute or two"
    )]
    Sent(Txid),
    /// A channel is being opened.
    #[error(
        "a channel is being opened, and its peer has not answered yet: try again in a minute, or close it if that peer stays silent"
    )]
    Opening,
    /// A splice is being agreed on.
    #[error(
        "a splice is being agreed on with the peer of channel {0}: try again in a minute or two, or close that channel if its peer \
         stays silent"
    )]
    Splicing(ChannelId),
    /// The chain was not read.
    #[error("what was sent before is not known: the chain was not read since then")]
    Unread,
}

/// Why the node did not do what the operator asked for. Nothing has changed then, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The node is not there.
    #[error(transparent)]
    Unavailable(#[from] NodeUnavailable),
    /// No path can be found without a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What was made out of the wallet before has to be seen first.
    #[error(transparent)]
    CoinsInUse(#[from] CoinsInUse),
    /// Whoever answered does not want the transaction.
    #[error("the chain source does not take the transaction ({words}): nothing was sent")]
    NotTaken {
        /// In its own words.
        words: String,
    },
    /// Nobody has answered yet, or not everybody.
    #[error(
        "transaction {txid} is made, and it is not known whether it is on its way ({why}). It is sent again by itself until \
         it is seen, for two minutes at least: look at the balance before you send anything else"
    )]
    NotTakenYet {
        /// The transaction.
        txid: bitcoin::Txid,
        /// What was said.
        why: String,
    },
    /// ldk-node refused without saying more than this.
    #[error("the node refused to {what}: {source}")]
    Refused {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: ldk_node::NodeError,
    },
    /// Nobody answered in time; it may still be done.
    #[error(
        "no answer within {within:?} to: {what}. It may still happen; look at the status before you try again"
    )]
    Late {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// It waits for its store.
    #[error(
        "the node waits for its store (its disk, or the server of node.vss), and cannot be asked to {0}: the status says what is known"
    )]
    Waits(&'static str),
    /// It was begun, and what came of it was neither noted nor heard; it may still be done.
    #[error(
        "it is not known what came of this: {what}. It may still happen; look at the status before you try again"
    )]
    Unsure {
        /// What was asked for.
        what: &'static str,
    },
    /// It is no address, or one with a mistake in it.
    #[error("`{0}` is no bitcoin address: a character is wrong or missing")]
    NotAnAddress(String),
    /// The address is of another network: money sent there would be lost.
    #[error("the address is not one of {0}, this node's network: nothing was sent")]
    OtherNetwork(Network),
    /// Nothing is to be sent.
    #[error("the amount is zero")]
    NoAmount,
    /// More than there is.
    #[error(
        "{asked_sat} sat are more than the {spendable_sat} sat that can be spent on chain now ({unconfirmed_sat} sat wait for \
         confirmations, {reserved_sat} sat are kept to pay for closing channels)"
    )]
    AboveOnchain {
        /// What was asked for.
        asked_sat: u64,
        /// What can be spent.
        spendable_sat: u64,
        /// What is not confirmed yet.
        unconfirmed_sat: u64,
        /// What is kept.
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
        /// The additional cost.
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
    /// More than the channels can send.
    #[error(
        "{asked_msat} msat are more than the {sendable_msat} msat that the channels can send now"
    )]
    AboveChannels {
        /// What was asked for.
        asked_msat: u64,
        /// What can be sent.
        sendable_msat: u64,
    },
    /// There is no such channel.
    #[error("there is no channel {0}; `tollhouse channels list` shows those that there are")]
    NoChannel(String),
    /// Its peer is not there.
    #[error("the peer of channel {0} is away, or the channel is not ready: nothing was done")]
    PeerAway(String),
    /// The peer cannot be dialled.
    #[error("peer {0} is not known here: say where it is, as in ID@HOST:PORT")]
    NoAddressOfPeer(String),
    /// What should name a peer does not.
    #[error("`{0}` names no peer: write it as ID@HOST:PORT, the id being 66 hex digits")]
    NotAPeer(String),
    /// Dialling it came to nothing.
    #[error(
        "peer {0} takes no connection, or says nothing on it: is the address right, and is it running?"
    )]
    PeerUnreachable(String),
    /// A channel is announced under a name and an address.
    #[error(
        "an announced channel needs `node.alias` and `node.listen` in the settings; a private one does not"
    )]
    NotAnnounceable,
    /// Neither an invoice nor an offer.
    #[error(
        "this is neither a BOLT 11 invoice nor a BOLT 12 offer: a character is wrong or missing"
    )]
    NotPayable,
    /// A payment link that contradicts itself or demands something unknown.
    #[error("failed to parse the payment link: {0}")]
    BadLink(&'static str),
    /// An on-chain address, or a link with nothing else.
    #[error("this is an on-chain payment request: use `tollhouse send {0} AMOUNT`")]
    OnlyOnchain(String),
    /// A Lightning address.
    #[error("`{0}` is a Lightning address, not an invoice: request an invoice from the payee")]
    PayeeName(String),
    /// A link to a server that makes invoices.
    #[error("this is an LNURL, not an invoice: request an invoice from the payee")]
    Lnurl,
    /// Made for another network.
    #[error("the invoice or offer is not for {0}, this node's network")]
    PayableElsewhere(Network),
    /// Its time is over.
    #[error("the invoice expired {ago_secs} s ago: ask the payee for another one")]
    Expired {
        /// How long ago.
        ago_secs: u64,
    },
    /// It leaves the amount open.
    #[error("the invoice or offer names no amount: say how much to pay")]
    AmountMissing,
    /// It names another amount.
    #[error("the invoice asks for {invoice_msat} msat, not for {asked_msat} msat")]
    OtherAmount {
        /// What it asks for.
        invoice_msat: u64,
        /// What was to be paid.
        asked_msat: u64,
    },
    /// It was paid before, or is being paid.
    #[error("this invoice was paid before, or is being paid: an invoice is paid once")]
    PaidBefore,
    /// It is our own.
    #[error("this is an invoice of this very node")]
    OwnInvoice,
    /// There is no such payment.
    #[error("there is no payment {0}")]
    NoPayment(String),
    /// Enough of them wait for money.
    #[error(
        "{0} addresses were drawn since money last arrived on the chain: hand one of them out again, use the deposit address of the \
         status, or draw one with the operator's own token (each is asked for at the chain source from then on)"
    )]
    AddressesUnpaid(u32),
    /// Enough of them wait for money.
    #[error(
        "{0} invoices that were made by hand wait for money: make one with the operator's own token (each is forgotten 31 days \
         after it was made)"
    )]
    InvoicesUnpaid(usize),
    /// A fee rate is missing or absurd.
    #[error("{0}")]
    FeeRate(&'static str),
    /// A description that does not fit an invoice.
    #[error("a description has at most {DESCRIPTION_BYTES_MAX} bytes (BOLT 11)")]
    DescriptionTooLong,
    /// A description that does not read as what it is.
    #[error("the description is not valid: {0}")]
    Description(#[from] Unseen),
    /// An expiry out of bounds.
    #[error("an invoice can be paid for a minute at least and thirty days at most")]
    Expiry,
}

impl Node {
    /// Whether channels may be used.
    pub(super) fn uses_channels(&self) -> Result<(), NodeUnavailable> {
        if self.is_recovering() {
            return Err(NodeUnavailable::Recovering);
        }
        Ok(())
    }

    /// Has the node do something that may wait for the disk, a peer or the chain source. What is late goes on by itself.
    pub(super) async fn operate<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>) -> Result<T, OperationError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let node = self.running()?;
        let working = tokio::task::spawn_blocking(move || work(&node));
        match tokio::time::timeout(OPERATION_TIMEOUT, working).await {
            Ok(done) => done.map_err(NodeUnavailable::Panicked)?,
            Err(_) => Err(OperationError::Late {
                what,
                within: OPERATION_TIMEOUT,
            }),
        }
    }
}

impl Node {
    /// Reads something of the node: nothing changes, and nobody waits long.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>) -> Result<T, OperationError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let node = self.running()?;
        let reading = self.in_turn(move || work(&node));
        match tokio::time::timeout(READ_MAX, reading).await {
            Ok(read) => read.map_err(NodeUnavailable::Panicked)?,
            Err(_) => Err(OperationError::Waits(what)),
        }
    }

    /// Reads in turn on a thread that may block. Whoever does not wait for it leaves it to itself: the next waits for its turn, so
    /// that however often is asked, one thread waits for the node.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let turn = Arc::clone(&self.reading).lock_owned().await;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        working.await
    }
}

/// Gives ldk-node's errors the words of what was asked for.
pub(super) fn refused(what: &'static str) -> impl FnOnce(ldk_node::NodeError) -> OperationError {
    move |source| {
        if source == ldk_node::NodeError::NotRunning {
            return NodeUnavailable::NotRunning.into();
        }
        OperationError::Refused { what, source }
    }
}
