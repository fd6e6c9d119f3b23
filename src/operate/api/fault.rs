//! The errors of the operator API and their HTTP status.

use std::time::Duration;

use axum::Json;
use axum::response::Response;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};

use crate::account::ledger::LedgerError;
use crate::base::error_chain::chain;
use crate::node::liquidity::{ActivateError, OrderError};
use crate::node::map::MapError;
use crate::node::{
    ChannelError, NodeUnavailable, OperationError, PaymentError, WalletError, WithdrawError,
};
use crate::operate::backup::BackupError;
use crate::sell::gate::KeyringError;
use crate::sell::route::NotABundle;

use super::access_list::AccessError;
use super::bundle_error::BundleError;
use super::spending::SpendingError;

/// Why a request of the operator failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Asked(&'static str),
    #[error("{0}")]
    Settings(String),
    #[error(
        "nothing is sold as `{0}`, and no token of it was used: is it misspelt? If not, send `\"unknown_too\": true`"
    )]
    UnknownService(String),
    #[error("the program is stopping")]
    Stopping,
    #[error("no recovery waits for channels to be closed")]
    NotWaiting,
    #[error("this access token may not do that: it takes one with the scope `{0}`")]
    Forbidden(&'static str),
    #[error(
        "an access token with a limit pays over Lightning only: what the chain takes for a transaction is not known before"
    )]
    Limited,
    #[error(
        "send the content of DATA_DIR/admin.token, or an access token that is good, as `Authorization: Bearer <token>`"
    )]
    Unknown,
    #[error("the request is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the request was not there as a whole within {within:?}: nothing was done")]
    TooSlow { within: Duration },
    #[error("the operating system gives no randomness")]
    NoRandomness,
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Spending(#[from] SpendingError),
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Payment(#[from] PaymentError),
    #[error(transparent)]
    Withdraw(#[from] WithdrawError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(
        "failed to rotate the master key: no backup of the new key could be made, and the old key stays in force. Fix the backup, or send `\"force\": true`"
    )]
    NotBackedUp(#[source] BackupError),
    #[error(transparent)]
    Activate(#[from] ActivateError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Map(#[from] MapError),
}

impl axum::response::IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Asked(_) => StatusCode::BAD_REQUEST,
            Self::UnknownService(_) => StatusCode::NOT_FOUND,
            Self::Settings(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Keyring(ref fault) => {
                tracing::error!("Failed to rotate the master key: {}", chain(fault));
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Ledger(ref fault) => {
                tracing::error!(
                    "Failed to do in the books what the operator asked for: {}",
                    chain(fault)
                );
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Unknown | Self::Access(AccessError::MakerGone) => StatusCode::UNAUTHORIZED,
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NoRandomness => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Access(AccessError::Full) | Self::Spending(SpendingError::Full) => {
                StatusCode::CONFLICT
            }
            Self::Access(AccessError::Unknown(_)) => StatusCode::NOT_FOUND,
            Self::Access(AccessError::File(ref fault)) => {
                tracing::error!("Failed to note which access tokens are good: {fault}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Forbidden(_)
            | Self::Limited
            | Self::Spending(SpendingError::AboveLimit { .. }) => StatusCode::FORBIDDEN,
            Self::Spending(ref fault) => {
                tracing::error!("Failed to note what is spent: {}", chain(fault));
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Operation(ref error) => status_of_operation(error),
            Self::Wallet(ref error) => status_of_wallet(error),
            Self::Channel(ref error) => status_of_channel(error),
            Self::Payment(ref error) => status_of_payment(error),
            Self::Withdraw(ref error) => status_of_withdrawal(error),
            Self::Node(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Activate(ref error) => status_of_activation(error),
            Self::Bundle(ref error) => status_of_bundle(error),
            Self::Order(ref error) => status_of_order(error),
            Self::Map(ref error) => status_of_map(error),
            Self::Backup(BackupError::Recovering) | Self::NotWaiting => StatusCode::CONFLICT,
            Self::NotBackedUp(ref fault) => {
                tracing::error!(
                    "Failed to make a backup of a new master key: {}",
                    chain(fault)
                );
                StatusCode::CONFLICT
            }
            Self::Backup(ref fault) => {
                tracing::error!("Failed to make a backup: {}", chain(fault));
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let body = Json(serde_json::json!({ "error": chain(&self) }));
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// The status of an operation that the node did not do. It tells the caller whether to change the
/// request or to retry it later.
fn status_of_operation(refusal: &OperationError) -> StatusCode {
    match refusal {
        OperationError::Unavailable(_) | OperationError::Waits(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        OperationError::Late { .. } | OperationError::Unsure { .. } => StatusCode::GATEWAY_TIMEOUT,
        OperationError::Refused { .. } => StatusCode::CONFLICT,
    }
}

/// The status of what the wallet did not do.
fn status_of_wallet(refusal: &WalletError) -> StatusCode {
    match refusal {
        WalletError::Operation(error) => status_of_operation(error),
        WalletError::NotTakenYet { .. } => StatusCode::GATEWAY_TIMEOUT,
        WalletError::NotAnAddress(_)
        | WalletError::OtherNetwork(_)
        | WalletError::NoAmount
        | WalletError::FeeRate(_) => StatusCode::BAD_REQUEST,
        WalletError::AddressesUnpaid(_)
        | WalletError::CoinsInUse(_)
        | WalletError::NotTaken { .. }
        | WalletError::AboveOnchain { .. }
        | WalletError::AboveOnchainWithFee { .. }
        | WalletError::NothingOnchain { .. } => StatusCode::CONFLICT,
    }
}

/// The status of what was not done with a channel or a peer.
fn status_of_channel(refusal: &ChannelError) -> StatusCode {
    match refusal {
        ChannelError::Operation(error) => status_of_operation(error),
        ChannelError::Wallet(error) => status_of_wallet(error),
        ChannelError::PeerUnreachable(_) => StatusCode::GATEWAY_TIMEOUT,
        ChannelError::NoChannel(_) => StatusCode::NOT_FOUND,
        ChannelError::NoAddressOfPeer(_) | ChannelError::NotAPeer(_) => StatusCode::BAD_REQUEST,
        ChannelError::PeerAway(_)
        | ChannelError::AboveChannels(_)
        | ChannelError::NotAnnounceable => StatusCode::CONFLICT,
    }
}

/// The status of a payment that was not sent, or an invoice that was not made.
fn status_of_payment(refusal: &PaymentError) -> StatusCode {
    match refusal {
        PaymentError::Operation(error) => status_of_operation(error),
        PaymentError::Map(error) => status_of_map(error),
        PaymentError::NoPayment(_) => StatusCode::NOT_FOUND,
        PaymentError::NoAmount
        | PaymentError::NotPayable
        | PaymentError::BadLink(_)
        | PaymentError::OnlyOnchain(_)
        | PaymentError::PayeeName(_)
        | PaymentError::Lnurl
        | PaymentError::PayableElsewhere(_)
        | PaymentError::AmountMissing
        | PaymentError::OtherAmount { .. }
        | PaymentError::DescriptionTooLong
        | PaymentError::Description(_)
        | PaymentError::Expiry => StatusCode::BAD_REQUEST,
        PaymentError::InvoicesUnpaid(_)
        | PaymentError::AboveChannels(_)
        | PaymentError::Expired { .. }
        | PaymentError::PaidBefore
        | PaymentError::OwnInvoice => StatusCode::CONFLICT,
    }
}

/// The status of a withdrawal that was not done.
fn status_of_withdrawal(refusal: &WithdrawError) -> StatusCode {
    match refusal {
        WithdrawError::Operation(error) => status_of_operation(error),
        WithdrawError::Wallet(error) => status_of_wallet(error),
        WithdrawError::Channel(error) => status_of_channel(error),
        WithdrawError::PaymentRefused(error) => status_of_payment(error),
        WithdrawError::NotWanted | WithdrawError::Dear { .. } => StatusCode::CONFLICT,
        WithdrawError::Source(_) | WithdrawError::Failed => StatusCode::BAD_GATEWAY,
    }
}

/// The status of a failed activation.
fn status_of_activation(error: &ActivateError) -> StatusCode {
    match error {
        ActivateError::TooSmall { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        ActivateError::NoProvider | ActivateError::FeeTooHigh { .. } => StatusCode::CONFLICT,
        ActivateError::NoOffer { .. }
        | ActivateError::Unreachable { .. }
        | ActivateError::NoFee => StatusCode::BAD_GATEWAY,
        ActivateError::Behind | ActivateError::Node(_) => StatusCode::SERVICE_UNAVAILABLE,
        ActivateError::Ledger(fault) => {
            tracing::error!("Failed to enter an activation: {}", chain(fault));
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// The status of a failed order.
fn status_of_order(error: &OrderError) -> StatusCode {
    match error {
        OrderError::Nothing | OrderError::NoId => StatusCode::UNPROCESSABLE_ENTITY,
        OrderError::NoProvider => StatusCode::CONFLICT,
        OrderError::Refused | OrderError::Another(_) | OrderError::Unreachable => {
            StatusCode::BAD_GATEWAY
        }
        OrderError::Node(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The status of a missing network map.
pub(super) fn status_of_map(error: &MapError) -> StatusCode {
    match error {
        MapError::NotWanted => StatusCode::CONFLICT,
        MapError::NotFetched => StatusCode::BAD_GATEWAY,
        MapError::Note(_) => StatusCode::INTERNAL_SERVER_ERROR,
        MapError::Node(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The status of a bundle that was not prepared.
fn status_of_bundle(error: &BundleError) -> StatusCode {
    match error {
        BundleError::NotSold(_)
        | BundleError::NotABundle {
            why: NotABundle::Unknown { .. },
            ..
        } => StatusCode::NOT_FOUND,
        BundleError::NotABundle {
            why: NotABundle::ByRequest | NotABundle::InCurrency | NotABundle::DryRun,
            ..
        } => StatusCode::UNPROCESSABLE_ENTITY,
        BundleError::Activate(error) => status_of_activation(error),
    }
}
