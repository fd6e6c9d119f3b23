//! The records of the ledger. The store keeps them in binary form. The journal, dumps and the
//! operator's answers have them as JSON, with byte strings in hex.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::account::store::Record;
use crate::base::price::{NoCurrency, Rate};

/// A challenge that may still be paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeRecord {
    /// The invoice's payment hash.
    #[serde(with = "hex_bytes")]
    pub payment_hash: [u8; 32],
    /// The id of the token in the challenge.
    #[serde(with = "hex_bytes")]
    pub token_id: [u8; 32],
    /// The service that the token opens.
    pub service: String,
    /// The requested route.
    pub route: String,
    /// The price, in msat.
    pub price_msat: u64,
    /// The time of the challenge, in Unix milliseconds.
    pub challenged_ms: u64,
    /// The expiry of the invoice, in Unix milliseconds.
    pub expires_ms: u64,
    /// The grant that the invoice buys, if it is not the route's default grant.
    #[serde(default)]
    pub grant: Option<String>,
    /// The rate at which a price in a currency was asked in bitcoin.
    #[serde(default)]
    pub rate: Option<RateRecord>,
}

/// The price of a bitcoin when a challenge was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RateRecord {
    /// The code of the currency.
    pub currency: String,
    /// The price of one bitcoin, in millionths of the currency's unit.
    pub micros_per_btc: u64,
}

/// Challenges with consecutive sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeBatch(pub Vec<ChallengeRecord>);

impl From<Rate> for RateRecord {
    fn from(rate: Rate) -> Self {
        Self {
            currency: rate.currency.to_string(),
            micros_per_btc: rate.micros_per_btc,
        }
    }
}

impl TryFrom<RateRecord> for Rate {
    type Error = NoCurrency;

    fn try_from(record: RateRecord) -> Result<Self, NoCurrency> {
        Ok(Self {
            currency: record.currency.parse()?,
            micros_per_btc: record.micros_per_btc,
        })
    }
}

/// A paid invoice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SaleRecord {
    /// The invoice's payment hash.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub payment_hash: [u8; 32],
    /// The amount of the first payment in msat, up to the price if that is known. It is the amount
    /// that arrived. If the payment opened a channel, it is the amount that was paid; the
    /// provider's fee is recorded with the activations.
    pub amount_msat: u64,
    /// The surplus in msat: amounts above the price, and further payments of the same invoice.
    pub surplus_msat: u64,
    /// The price in msat, if the challenge was still known at settlement.
    pub price_msat: Option<u64>,
    /// The service, from the challenge or from the token's first use.
    pub service: Option<String>,
    /// The requested route.
    pub route: Option<String>,
    /// The id of the token that was sold.
    #[serde(with = "hex_option")]
    #[schema(value_type = Option<String>)]
    pub token_id: Option<[u8; 32]>,
    /// The time of the challenge, in Unix milliseconds.
    pub challenged_ms: Option<u64>,
    /// The time of settlement, in Unix milliseconds.
    pub settled_ms: u64,
    /// The time of the token's first use, in Unix milliseconds.
    pub redeemed_ms: Option<u64>,
    /// The run of the program that both made the challenge and settled the payment; 0 if two runs
    /// did. A second event for the same hash is a second payment if the node certainly claimed it
    /// after its start ([`Claims`](super::Claims)), or, if the node does not report claims, if it
    /// comes in that run. Otherwise the event may repeat the same payment.
    pub run: u64,
    /// The grant that was bought, if it is not the route's default grant.
    #[serde(default)]
    pub grant: Option<String>,
    /// The rate at which a price in a currency was asked in bitcoin.
    #[serde(default)]
    pub rate: Option<RateRecord>,
    /// The expiry of the invoice in Unix milliseconds, if the challenge was still known. A payment
    /// after this time makes the token valid for longer, by the time since the expiry.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// The time at which the payment was lost, in Unix milliseconds: the peer of a closed channel
    /// claimed the payment back on chain.
    #[serde(default)]
    pub lost_ms: Option<u64>,
}

/// A token that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRecord {
    /// The payment hash of the payment that bought the token.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub payment_hash: [u8; 32],
    /// The token's id.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub token_id: [u8; 32],
    /// The service of the token's first use.
    pub service: String,
    /// The time at which the token was minted, in Unix milliseconds, if the challenge was still
    /// known.
    pub issued_ms: Option<u64>,
    /// The time of the first use, in Unix milliseconds.
    pub first_used_ms: u64,
    /// The time of the last use, in Unix milliseconds.
    pub last_used_ms: u64,
    /// The number of requests served on the token, attenuated copies included.
    pub requests: u64,
    /// The end of the token's validity in Unix seconds, from its caveats at the first use.
    pub valid_until_secs: Option<u64>,
    /// The number of response bytes served on the token.
    #[serde(default)]
    pub bytes: u64,
    /// The metered time spent on the token, in milliseconds.
    #[serde(default)]
    pub metered_ms: u64,
}

/// A revocation of one token, or of a service's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevocationRecord {
    /// The revoked tokens: `{"token": "…"}` or `{"service": "…"}`.
    #[schema(value_type = Object)]
    pub what: Revoked,
    /// The time of the revocation, in Unix milliseconds.
    pub revoked_ms: u64,
    /// The reason in the operator's words; may be empty.
    pub reason: String,
}

/// The tokens that were revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// One token, with all its attenuated copies.
    Token(#[serde(with = "hex_bytes")] [u8; 32]),
    /// All tokens of this service that were minted up to the second of the revocation.
    Service(String),
}

/// The free use of a service by a client without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaRecord {
    /// The number of requests served in the window.
    pub requests: u64,
    /// The end of the window, in Unix milliseconds.
    pub until_ms: u64,
}

/// A channel that was once ready. Opening a channel costs money on chain, so strangers cannot fill
/// the ledger with such records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelRecord {
    /// The channel's id.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub channel_id: [u8; 32],
    /// The peer's node id, in hex.
    pub counterparty: Option<String>,
    /// The time at which the node reported the channel as ready, in Unix milliseconds.
    pub ready_ms: u64,
    /// The time at which the node reported the channel as closed, in Unix milliseconds.
    pub closed_ms: Option<u64>,
    /// LDK's reason for closing, which may quote the peer, cut to [`REASON_CHARS_MAX`].
    pub reason: Option<String>,
}

/// A payment from which a liquidity provider opens a channel to us, for a fee. It is a sale only if
/// it pays for a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActivationRecord {
    /// The invoice's payment hash.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub payment_hash: [u8; 32],
    /// The amount that the customer pays, in msat: always the sum of `fee_msat` and `net_msat`.
    pub gross_msat: u64,
    /// The provider's fee in msat: first the fee that it asked for, then the fee that it took.
    pub fee_msat: u64,
    /// The amount that arrives, in msat.
    pub net_msat: u64,
    /// The provider's node id, in hex.
    pub provider: String,
    /// The invoice; empty if the record was lost and restored from the node's report.
    pub bolt11: String,
    /// The time at which the invoice was made, in Unix milliseconds.
    pub made_ms: u64,
    /// The expiry of the invoice, in Unix milliseconds.
    pub expires_ms: u64,
    /// The time of settlement, in Unix milliseconds.
    pub settled_ms: Option<u64>,
    /// The bundle that the customer buys with the payment. Its sale has the same payment hash.
    #[serde(default)]
    pub bundle: Option<BundleRecord>,
}

/// The grant that a customer buys with a payment that opens a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleRecord {
    /// The service that the token opens.
    pub service: String,
    /// The route that sells the grant.
    pub route: String,
    /// The grant, if it is not the route's default grant.
    pub grant: Option<String>,
}

/// The totals of all paid activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActivationTotals {
    /// The number of paid activations.
    pub count: u64,
    /// The sum that customers paid, in msat.
    pub gross_msat: u64,
    /// The sum that providers kept, in msat.
    pub fee_msat: u64,
    /// The sum that arrived, in msat.
    pub net_msat: u64,
    /// The part of `gross_msat` that paid for bundles, in msat. It also counts among the sales.
    #[serde(default)]
    pub sold_msat: u64,
}

/// The longest kept part of a peer's reason, which may have 65,535 bytes (BOLT 1, `error`).
pub const REASON_CHARS_MAX: usize = 200;

/// The number and the sum of the sales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// The number of paid invoices.
    pub count: u64,
    /// The sum that was paid for them in msat, without the surplus.
    pub amount_msat: u64,
    /// The surplus in msat: amounts above the prices, and further payments of the same invoices.
    #[serde(default)]
    pub surplus_msat: u64,
    /// The part of `amount_msat` that was lost, in msat: peers of closed channels claimed it back
    /// on chain.
    #[serde(default)]
    pub lost_msat: u64,
}

impl Record for ChallengeBatch {
    const VERSION: u8 = 2;
}
impl Record for SaleRecord {
    const VERSION: u8 = 3;
}
impl Record for TokenRecord {
    const VERSION: u8 = 2;
}
impl Record for RevocationRecord {
    const VERSION: u8 = 1;
}
impl Record for QuotaRecord {
    const VERSION: u8 = 1;
}
impl Record for ChannelRecord {
    const VERSION: u8 = 1;
}
impl Record for ActivationRecord {
    const VERSION: u8 = 2;
}
impl Record for Totals {
    const VERSION: u8 = 2;
}

/// A record without content: only its key matters.
impl Record for () {
    const VERSION: u8 = 1;
}

impl TokenRecord {
    /// Returns the key of the record. It begins with the payment hash, so that a sale finds its
    /// token.
    pub fn key(payment_hash: &[u8; 32], token_id: &[u8; 32]) -> Vec<u8> {
        [payment_hash.as_slice(), token_id].concat()
    }
}

impl RevocationRecord {
    /// Returns the key of the record: each token has one, and each service has one.
    pub fn key(&self) -> Vec<u8> {
        match &self.what {
            Revoked::Token(token_id) => [&b"t"[..], token_id].concat(),
            Revoked::Service(service) => [b"s", service.as_bytes()].concat(),
        }
    }
}

impl Totals {
    /// Adds a sale that was not counted before.
    pub(super) fn add(&mut self, sale: &SaleRecord) {
        self.count += 1;
        self.amount_msat += sale.amount_msat;
        self.surplus_msat += sale.surplus_msat;
        self.lost_msat += sale.lost_ms.map_or(0, |_| sale.amount_msat);
    }
}

impl SaleRecord {
    /// Moves the part above the price to the surplus.
    pub(super) fn split_at(&mut self, price_msat: u64) {
        self.surplus_msat += self.amount_msat.saturating_sub(price_msat);
        self.amount_msat = self.amount_msat.min(price_msat);
    }

    /// Returns how long after its invoice expired the sale was paid, in seconds, rounded up.
    pub(super) fn late_secs(&self, end_secs: u64) -> u64 {
        let end_ms = self.expires_ms.unwrap_or(end_secs.saturating_mul(1_000));
        self.settled_ms.saturating_sub(end_ms).div_ceil(1_000)
    }

    /// Returns the key of the sale in the order of time.
    pub fn time_key(&self) -> Vec<u8> {
        [&self.settled_ms.to_be_bytes()[..], &self.payment_hash].concat()
    }
}

/// Encodes 32 bytes as they are in the store, and as hex in JSON.
mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            bytes.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

/// Like `hex_bytes`, for bytes that may be missing.
mod hex_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Hex(#[serde(with = "super::hex_bytes")] [u8; 32]);

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.map(Hex).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        Ok(Option::<Hex>::deserialize(deserializer)?.map(|hex| hex.0))
    }
}
