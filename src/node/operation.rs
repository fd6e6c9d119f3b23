//! Operations that the operator requests of the node, and the errors of these operations.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, Txid};
use lightning::ln::types::ChannelId;

use super::map::MapError;
use super::{Node, NodeUnavailable};
use crate::base::text::Unseen;
use crate::protocol::invoice::DESCRIPTION_BYTES_MAX;

/// The longest time that an operation waits for a peer or the chain source. ldk-node itself would
/// wait as long as the peer does not answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time that a read may take. Reads take milliseconds. They take longer only while the
/// node waits for its store (a disk or the server of node.vss) and holds locks that reads need.
pub(super) const READ_MAX: Duration = Duration::from_millis(1_500);

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

/// The reasons why an operation failed. Nothing was changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The node is unavailable.
    #[error(transparent)]
    Unavailable(#[from] NodeUnavailable),
    /// Finding a path needs the network graph, which is missing.
    #[error(transparent)]
    Map(#[from] MapError),
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
    /// ldk-node refused the operation without more details than its error.
    #[error("the node refused to {what}: {source}")]
    Refused {
        /// The operation.
        what: &'static str,
        /// The error of ldk-node.
        #[source]
        source: ldk_node::NodeError,
    },
    /// The operation took too long; it may still happen.
    #[error(
        "no answer within {within:?} to: {what}. It may still happen; look at the status before you try again"
    )]
    Late {
        /// The operation.
        what: &'static str,
        /// The length of the wait.
        within: Duration,
    },
    /// The node waits for its store.
    #[error(
        "the node waits for its store (its disk, or the server of node.vss), and cannot be asked to {0}: the status says what is known"
    )]
    Waits(&'static str),
    /// The operation began, but its result was neither recorded nor reported. It may still happen.
    #[error(
        "it is not known what came of this: {what}. It may still happen; look at the status before you try again"
    )]
    Unsure {
        /// The operation.
        what: &'static str,
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
    /// The amount exceeds what the channels can send.
    #[error(
        "{asked_msat} msat are more than the {sendable_msat} msat that the channels can send now"
    )]
    AboveChannels {
        /// The requested amount.
        asked_msat: u64,
        /// The amount that can be sent.
        sendable_msat: u64,
    },
    /// The channel does not exist.
    #[error("there is no channel {0}; `tollhouse channels list` shows those that there are")]
    NoChannel(String),
    /// The channel's peer is offline, or the channel is not ready.
    #[error("the peer of channel {0} is away, or the channel is not ready: nothing was done")]
    PeerAway(String),
    /// The address of the peer is unknown.
    #[error("peer {0} is not known here: say where it is, as in ID@HOST:PORT")]
    NoAddressOfPeer(String),
    /// The text does not name a peer.
    #[error("`{0}` names no peer: write it as ID@HOST:PORT, the id being 66 hex digits")]
    NotAPeer(String),
    /// The connection to the peer failed.
    #[error(
        "peer {0} takes no connection, or says nothing on it: is the address right, and is it running?"
    )]
    PeerUnreachable(String),
    /// An announced channel needs a node alias and an address in the settings.
    #[error(
        "an announced channel needs `node.alias` and `node.listen` in the settings; a private one does not"
    )]
    NotAnnounceable,
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
    /// Too many drawn addresses wait for money.
    #[error(
        "{0} addresses were drawn since money last arrived on the chain: hand one of them out again, use the deposit address of the \
         status, or draw one with the operator's own token (each is asked for at the chain source from then on)"
    )]
    AddressesUnpaid(u32),
    /// Too many manual invoices wait for money.
    #[error(
        "{0} invoices that were made by hand wait for money: make one with the operator's own token (each is forgotten 31 days \
         after it was made)"
    )]
    InvoicesUnpaid(usize),
    /// The fee rate is missing or out of range.
    #[error("{0}")]
    FeeRate(&'static str),
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

impl Node {
    /// Fails during a recovery, when channels must not be used.
    pub(super) fn uses_channels(&self) -> Result<(), NodeUnavailable> {
        if self.is_recovering() {
            return Err(NodeUnavailable::Recovering);
        }
        Ok(())
    }

    /// Runs an operation of the node that may wait for the disk, a peer or the chain source. After
    /// a timeout, the operation continues on its own.
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
    /// Reads from the node within a short time. Changes nothing.
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

    /// Runs reads one at a time, on a thread that may block. A read continues even if its caller no
    /// longer waits, and the next read waits for its turn. So at most one thread waits for the
    /// node, however many requests come.
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

/// Adds the name of the operation to an error of ldk-node.
pub(super) fn refused(what: &'static str) -> impl FnOnce(ldk_node::NodeError) -> OperationError {
    move |source| {
        if source == ldk_node::NodeError::NotRunning {
            return NodeUnavailable::NotRunning.into();
        }
        OperationError::Refused { what, source }
    }
}
