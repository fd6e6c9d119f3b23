//! Verification of a credential: an HMAC chain, one SHA-256, and the caveats. Pure arithmetic.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::caveat::{Allowance, Subject, Unsatisfied, preimage_inside, satisfy_late};
use super::credential::Credential;
use super::identifier::Identifier;
use super::macaroon::{FormatError, Parsed};
use super::root_key::RootKeys;

/// A credential that is valid for a request by its cryptography and caveats. Only the ledger knows
/// how often it was used and whether it was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The payment and the token.
    pub identifier: Identifier,
    /// The limits that the token's caveats set.
    pub allowance: Allowance,
}

/// The reasons why a credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is not in the format that Tollhouse writes.
    #[error("the token cannot be read")]
    Unreadable,
    /// A caveat requires a discharge from a third party.
    #[error("the token has a third-party caveat")]
    ThirdPartyCaveat,
    /// The token's master key is retired or unknown, or another server minted the token.
    #[error("the token's key is not in force here")]
    UnknownEpoch,
    /// The signature does not match: the token is forged, or another server minted it.
    #[error("the token's signature is wrong")]
    WrongSignature,
    /// The preimage is missing, both after the colon and in the caveats.
    #[error("there is no preimage")]
    NoPreimage,
    /// The preimage does not belong to the token's payment.
    #[error("the preimage is not the one of the token's invoice")]
    WrongPreimage,
    /// The credential has several tokens for different payments.
    #[error("the tokens belong to different payments")]
    MixedTokens,
    /// The token is for another service.
    #[error("the token is for another service")]
    OtherService,
    /// The token is for a lower price class of this service.
    #[error("the token is for a lower price class of this service than this request")]
    LowerClass,
    /// The token is for this service, but was sold at another price or for another class of
    /// requests.
    #[error("the token was sold for other requests of this service")]
    OtherRequests,
    /// The token has expired.
    #[error("the token's time is over")]
    Expired,
    /// A later caveat allows more than an earlier one.
    #[error("a caveat asks for more than an earlier one gave")]
    Widened,
    /// The value of a known condition is not understood.
    #[error("a caveat is not understood")]
    CaveatNotUnderstood,
    /// The holder narrowed the token to other requests.
    #[error("the token was narrowed to other requests")]
    OutsideScope,
}

/// A credential with correct signatures and preimage: Tollhouse sold it, and it was paid. Its
/// caveats say which requests it opens.
#[derive(Clone)]
pub struct Proven {
    /// The bytes of each token; at least one.
    macaroons: Vec<Vec<u8>>,
    /// The identifier that all tokens share.
    identifier: Identifier,
}

/// Prints only the identifier, because the tokens are secret.
impl std::fmt::Debug for Proven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proven")
            .field("identifier", &self.identifier)
            .finish_non_exhaustive()
    }
}

/// Verifies signatures and preimage, which do not depend on the request. This comes before
/// [`Proven::verify`], so that a client without a genuine token learns nothing about a token.
pub fn prove(keys: &RootKeys, credential: &Credential, now_secs: u64) -> Result<Proven, Refusal> {
    let mut all: Option<Identifier> = None;
    for macaroon in &credential.macaroons {
        let one = prove_one(keys, macaroon, credential.preimage.as_ref(), now_secs)?;
        if all.is_some_and(|first| first != one) {
            return Err(Refusal::MixedTokens);
        }
        all = Some(one);
    }
    Ok(Proven {
        macaroons: credential.macaroons.clone(),
        identifier: all.ok_or(Refusal::Unreadable)?,
    })
}

/// Parses a token and verifies only its signature. The caller must check every caveat.
pub fn signed<'a>(
    keys: &RootKeys,
    macaroon: &'a [u8],
    now_secs: u64,
) -> Result<(Identifier, Parsed<'a>), Refusal> {
    let token = Parsed::read(macaroon)?;
    let identifier = Identifier::from_bytes(token.identifier).ok_or(Refusal::Unreadable)?;
    let root_key = keys
        .root_key(token.identifier, now_secs)
        .ok_or(Refusal::UnknownEpoch)?;
    if !bool::from(token.expected_signature(&root_key).ct_eq(token.signature)) {
        return Err(Refusal::WrongSignature);
    }
    Ok((identifier, token))
}

fn prove_one(
    keys: &RootKeys,
    macaroon: &[u8],
    preimage: Option<&[u8; 32]>,
    now_secs: u64,
) -> Result<Identifier, Refusal> {
    let (identifier, token) = signed(keys, macaroon, now_secs)?;
    let is_preimage =
        |preimage: &[u8; 32]| bool::from(Sha256::digest(preimage).ct_eq(&identifier.payment_hash));
    let mut is_known = false;
    for inside in token.caveats().filter_map(preimage_inside) {
        let inside = inside.ok_or(Refusal::CaveatNotUnderstood)?;
        if !is_preimage(&inside) {
            return Err(Refusal::WrongPreimage);
        }
        is_known = true;
    }
    match preimage {
        Some(preimage) if is_preimage(preimage) => Ok(identifier),
        Some(_) => Err(Refusal::WrongPreimage),
        None if is_known => Ok(identifier),
        None => Err(Refusal::NoPreimage),
    }
}

impl Proven {
    /// The payment and the token.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// Verifies the parts that depend on the request: the caveats, and whether the key is still
    /// valid.
    pub fn verify(&self, keys: &RootKeys, subject: &Subject<'_>) -> Result<Verified, Refusal> {
        self.verify_late(keys, subject, 0)
    }

    /// Verifies a credential whose invoice was paid `late_secs` after the invoice expired.
    pub fn verify_late(
        &self,
        keys: &RootKeys,
        subject: &Subject<'_>,
        late_secs: u64,
    ) -> Result<Verified, Refusal> {
        if !keys.is_in_force(self.identifier.token_id.epoch(), subject.now_secs) {
            return Err(Refusal::UnknownEpoch);
        }
        let mut all: Option<Verified> = None;
        for macaroon in &self.macaroons {
            let one = Verified {
                identifier: self.identifier,
                allowance: satisfy_late(Parsed::read(macaroon)?.caveats(), subject, late_secs)?,
            };
            all = Some(all.map_or(one, |first| stricter(first, one)));
        }
        all.ok_or(Refusal::Unreadable)
    }
}

/// Combines two copies of one token. The stricter limits apply.
fn stricter(first: Verified, second: Verified) -> Verified {
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    let (one, other) = (first.allowance, second.allowance);
    Verified {
        identifier: first.identifier,
        allowance: Allowance {
            requests_max: least(one.requests_max, other.requests_max),
            bytes_max: least(one.bytes_max, other.bytes_max),
            seconds_max: least(one.seconds_max, other.seconds_max),
            is_priced: one.is_priced && other.is_priced,
            sold_as: one
                .sold_as
                .zip(other.sold_as)
                .map(|(one, other)| one.and(other))
                .or(one.sold_as)
                .or(other.sold_as),
            price_max_msat: least(one.price_max_msat, other.price_max_msat),
            valid_until_secs: least(one.valid_until_secs, other.valid_until_secs),
            late_secs: one.late_secs,
            preimage: one.preimage,
        },
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::ThirdPartyCaveat => Self::ThirdPartyCaveat,
            FormatError::NotVersion2 | FormatError::TooLong | FormatError::UnknownIdentifier => {
                Self::Unreadable
            }
        }
    }
}

impl From<Unsatisfied> for Refusal {
    fn from(unsatisfied: Unsatisfied) -> Self {
        match unsatisfied {
            Unsatisfied::Service => Self::OtherService,
            Unsatisfied::Class => Self::LowerClass,
            Unsatisfied::Expired => Self::Expired,
            Unsatisfied::Widened => Self::Widened,
            Unsatisfied::NotUnderstood => Self::CaveatNotUnderstood,
            Unsatisfied::OutsideScope => Self::OutsideScope,
        }
    }
}
