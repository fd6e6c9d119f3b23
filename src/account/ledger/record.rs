//! The records of the account. Each is kept in the store as it is, and written as JSON to the journal, to dumps and to the
//! operator: byte strings are hex there.

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
    /// The token that went with it.
    #[serde(with = "hex_bytes")]
    pub token_id: [u8; 32],
    /// The service that the token opens.
    pub service: String,
    /// The route that was asked for.
    pub route: String,
    /// What was asked, in msat.
    pub price_msat: u64,
    /// When, Unix milliseconds.
    pub challenged_ms: u64,
    /// When the invoice expires, Unix milliseconds.
    pub expires_ms: u64,
    /// Which of the route's grants it buys, where that is not the default one.
    #[serde(default)]
    pub grant: Option<String>,
    /// The rate at which a price in a currency was asked in bitcoin.
    #[serde(default)]
    pub rate: Option<RateRecord>,
}

/// What a bitcoin cost when a challenge was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RateRecord {
    /// The currency's code.
    pub currency: String,
    /// Millionths of its unit for one bitcoin.
    pub micros_per_btc: u64,
}

/// Challenges that were made one after the other.
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
    /// The amount of the first payment in msat, up to the price if that is known. It is what arrived, unless the
    /// payment opened a channel: the provider kept a part of it, which is recorded with the activations.
    pub amount_msat: u64,
    /// The surplus in msat: what arrived above the price, and with further payments of the same invoice.
    pub surplus_msat: u64,
    /// What was asked, in msat, where the challenge's record was still there.
    pub price_msat: Option<u64>,
    /// The service, from the challenge's record or from the token's first use.
    pub service: Option<String>,
    /// The route that was asked for.
    pub route: Option<String>,
    /// The token that was sold.
    #[serde(with = "hex_option")]
    #[schema(value_type = Option<String>)]
    pub token_id: Option<[u8; 32]>,
    /// When the challenge was made, Unix milliseconds.
    pub challenged_ms: Option<u64>,
    /// When the payment was settled, Unix milliseconds.
    pub settled_ms: u64,
    /// When the token was first used, Unix milliseconds.
    pub redeemed_ms: Option<u64>,
    /// The run of the program that both made the challenge and settled the payment; 0 if they were different runs.
    /// A second event for the same hash is a second payment if the node certainly claimed it after its start
    /// ([`Claims`](super::Claims)). If the node does not report claims, it is a second payment if it comes in that
    /// run. Otherwise it may be the same payment reported again.
    pub run: u64,
    /// Which of the route's grants was bought, where that is not the default one.
    #[serde(default)]
    pub grant: Option<String>,
    /// The rate at which a price in a currency was asked in bitcoin.
    #[serde(default)]
    pub rate: Option<RateRecord>,
    /// When the invoice expired, Unix milliseconds, if the challenge was still known. A token whose invoice was
    /// paid later is valid for that much longer.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// When its payment was lost, Unix milliseconds: the peer of a channel that was closed claimed it back on
    /// chain.
    #[serde(default)]
    pub lost_ms: Option<u64>,
}

/// A token that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRecord {
    /// The payment it was bought with.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub payment_hash: [u8; 32],
    /// Which token.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub token_id: [u8; 32],
    /// The service it opened first.
    pub service: String,
    /// When it was minted, Unix milliseconds, where the challenge's record was still there.
    pub issued_ms: Option<u64>,
    /// When it was first used, Unix milliseconds.
    pub first_used_ms: u64,
    /// When it was last used, Unix milliseconds.
    pub last_used_ms: u64,
    /// Requests served on it, attenuated copies included.
    pub requests: u64,
    /// Until when it is good, Unix seconds, as its caveats said at first use.
    pub valid_until_secs: Option<u64>,
    /// Response bytes served on it.
    #[serde(default)]
    pub bytes: u64,
    /// Metered time spent on it, in milliseconds.
    #[serde(default)]
    pub metered_ms: u64,
}

/// Tokens that open nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevocationRecord {
    /// Which: `{"token": "…"}` or `{"service": "…"}`.
    #[schema(value_type = Object)]
    pub what: Revoked,
    /// Since when, Unix milliseconds.
    pub revoked_ms: u64,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

/// Which tokens were revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// One, with all its attenuated copies.
    Token(#[serde(with = "hex_bytes")] [u8; 32]),
    /// For this service, all that were minted up to the second of the revocation.
    Service(String),
}

/// What a client without a token has had of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaRecord {
    /// Requests served in the window.
    pub requests: u64,
    /// When the window ends, Unix milliseconds.
    pub until_ms: u64,
}

/// A channel that was once ready: opening one costs money on chain, so a stranger cannot fill the books with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelRecord {
    /// The channel.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub channel_id: [u8; 32],
    /// Who is at the other end, a node id in hex.
    pub counterparty: Option<String>,
    /// When we learnt that it was ready, Unix milliseconds.
    pub ready_ms: u64,
    /// When we learnt that it was closed, Unix milliseconds.
    pub closed_ms: Option<u64>,
    /// LDK's words for why, a peer's among them, cut to [`REASON_CHARS_MAX`].
    pub reason: Option<String>,
}

/// A payment out of which a liquidity provider opens a channel to us, and of which it keeps a fee. It is a sale only if it pays
/// for a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActivationRecord {
    /// The invoice's payment hash.
    #[serde(with = "hex_bytes")]
    #[schema(value_type = String)]
    pub payment_hash: [u8; 32],
    /// What the customer pays, in msat: always what the provider keeps and what arrives, together.
    pub gross_msat: u64,
    /// What the provider keeps, in msat: what it asked, and what it took once that is known.
    pub fee_msat: u64,
    /// What arrives, in msat.
    pub net_msat: u64,
    /// The provider, a node id in hex.
    pub provider: String,
    /// The invoice; empty if the record was made up again from what the node knew.
    pub bolt11: String,
    /// When the invoice was made, Unix milliseconds.
    pub made_ms: u64,
    /// When it expires, Unix milliseconds.
    pub expires_ms: u64,
    /// When the payment was settled, Unix milliseconds.
    pub settled_ms: Option<u64>,
    /// What a customer buys with it; the sale has the same payment hash.
    #[serde(default)]
    pub bundle: Option<BundleRecord>,
}

/// What a customer buys with a payment that opens a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleRecord {
    /// The service that its token opens.
    pub service: String,
    /// The route that it is sold on.
    pub route: String,
    /// Which of the route's grants it is, where that is not the default one.
    pub grant: Option<String>,
}

/// What came of all activations that were paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActivationTotals {
    /// How many were paid.
    pub count: u64,
    /// What customers paid for them, in msat.
    pub gross_msat: u64,
    /// What providers kept of it, in msat.
    pub fee_msat: u64,
    /// What arrived, in msat.
    pub net_msat: u64,
    /// What of the gross bought bundles, in msat: it stands among the sales, too.
    #[serde(default)]
    pub sold_msat: u64,
}

/// Of a reason that a peer gave, which may have 65,535 bytes (BOLT 1, `error`).
pub const REASON_CHARS_MAX: usize = 200;

/// Number and sum of the sales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// How many invoices were paid.
    pub count: u64,
    /// The sum of what was paid for them, surplus not included, in msat.
    pub amount_msat: u64,
    /// The surplus in msat: what arrived above the prices, and with further payments of the same invoices.
    #[serde(default)]
    pub surplus_msat: u64,
    /// The part of the sum that was lost, in msat: the peers of closed channels claimed it back on chain.
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

/// A key that stands for itself.
impl Record for () {
    const VERSION: u8 = 1;
}

impl TokenRecord {
    /// Where it is kept: under its payment first, so that a sale finds its token.
    pub fn key(payment_hash: &[u8; 32], token_id: &[u8; 32]) -> Vec<u8> {
        [payment_hash.as_slice(), token_id].concat()
    }
}

impl RevocationRecord {
    /// Where it is kept: one for each token, one for each service.
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

    /// How long after its invoice expired the sale was paid, in seconds, rounded up.
    pub(super) fn late_secs(&self, end_secs: u64) -> u64 {
        let end_ms = self.expires_ms.unwrap_or(end_secs.saturating_mul(1_000));
        self.settled_ms.saturating_sub(end_ms).div_ceil(1_000)
    }

    /// Where its line in the order of time is kept.
    pub fn time_key(&self) -> Vec<u8> {
        [&self.settled_ms.to_be_bytes()[..], &self.payment_hash].concat()
    }
}

/// 32 bytes: as they are in the store, hex where people read.
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

/// The same for bytes that may be missing.
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
