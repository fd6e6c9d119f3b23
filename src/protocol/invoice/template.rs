//! A template for invoices. Two challenges for the same thing differ only in the time, the payment
//! hash and the payment secret. Writing the rest again would cost a third of what a signature
//! costs. So `lightning-invoice` writes one invoice for each price and description. Its copies get
//! their own three fields, signature and checksum (BOLT 11).

use sha2::{Digest as _, Sha256};

use super::signer::SIGNATURE_BYTES;

/// The characters of bech32 (BIP 173), each at the index of its five bits.
const CHARACTERS: [u8; 32] = *b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// The checksum's generator (BIP 173).
const GENERATOR: [u32; 5] = [
    0x3b6a_57b2,
    0x2650_8e6d,
    0x1ea1_19fa,
    0x3d42_33dd,
    0x2a14_62b3,
];
/// A table of the constants that the top five bits add to the checksum. It saves time, because a
/// checksum step runs 400 times per invoice.
const STEPS: [u32; 32] = {
    let mut steps = [0; 32];
    let mut top = 0;
    while top < 32 {
        let mut bit = 0;
        while bit < 5 {
            if top >> bit & 1 == 1 {
                steps[top] ^= GENERATOR[bit];
            }
            bit += 1;
        }
        top += 1;
    }
    steps
};
/// Groups of five bits in the checksum.
const CHECKSUM: usize = 6;
/// Groups of five bits in the signature.
const SIGNATURE: usize = SIGNATURE_BYTES * 8 / 5;
/// Groups of five bits in the timestamp, which is the beginning of the data.
const TIMESTAMP: usize = 7;
/// Groups of five bits in a field of 32 bytes, the last one padded with zeros.
const HASH: usize = 52;
/// The field type of the payment hash, `p`.
const PAYMENT_HASH: u8 = 1;
/// The field type of the payment secret, `s`.
const PAYMENT_SECRET: u8 = 16;

/// The invoice for one price and description, without the fields that differ.
#[derive(Debug)]
pub(super) struct Template {
    /// The invoice's prefix with the network and the amount.
    prefix: String,
    /// The state of the checksum after the prefix.
    prefix_checksum: u32,
    /// The timestamp and fields of the original invoice, as groups of five bits.
    data: Vec<u8>,
    /// The index of the payment hash in `data`.
    hash_at: usize,
    /// The index of the payment secret in `data`.
    secret_at: usize,
}

impl Template {
    /// Parses an invoice into a template; `None` if the hash or the secret is missing.
    pub(super) fn of(bolt11: &str) -> Option<Self> {
        let (prefix, data) = bolt11.rsplit_once('1')?;
        let value = |character| CHARACTERS.iter().position(|known| *known == character);
        let mut data: Vec<u8> = data
            .bytes()
            .map(|character| value(character).and_then(|value| u8::try_from(value).ok()))
            .collect::<Option<_>>()?;
        data.truncate(data.len().checked_sub(CHECKSUM + SIGNATURE)?);
        let field = |wanted| {
            let mut at = TIMESTAMP;
            while let Some([tag, high, low]) = data.get(at..at + 3) {
                let len = usize::from(*high) * 32 + usize::from(*low);
                if *tag == wanted && len == HASH {
                    return Some(at + 3);
                }
                at += 3 + len;
            }
            None
        };
        Some(Self {
            prefix: prefix.to_owned(),
            prefix_checksum: expanded(prefix).fold(1, checksum_step),
            hash_at: field(PAYMENT_HASH)?,
            secret_at: field(PAYMENT_SECRET)?,
            data,
        })
    }

    /// Fills in the fields and signs the invoice.
    pub(super) fn fill(
        &self,
        unix_secs: u64,
        payment_hash: &[u8; 32],
        payment_secret: &[u8; 32],
        sign: impl FnOnce([u8; 32]) -> [u8; SIGNATURE_BYTES],
    ) -> String {
        let mut data = Vec::with_capacity(self.data.len() + SIGNATURE + CHECKSUM);
        data.extend_from_slice(&self.data);
        for (index, group) in data[..TIMESTAMP].iter_mut().rev().enumerate() {
            *group = (unix_secs >> (5 * index)) as u8 & 31;
        }
        data[self.hash_at..][..HASH]
            .iter_mut()
            .zip(groups(payment_hash))
            .for_each(|(group, value)| *group = value);
        data[self.secret_at..][..HASH]
            .iter_mut()
            .zip(groups(payment_secret))
            .for_each(|(group, value)| *group = value);

        let mut hasher = Sha256::new_with_prefix(&self.prefix);
        hasher.update(bytes(&data));
        data.extend(groups(&sign(hasher.finalize().into())));

        let checked = data.iter().chain(&[0; CHECKSUM]).copied();
        let checksum = checked.fold(self.prefix_checksum, checksum_step) ^ 1;
        data.extend(
            (0..CHECKSUM)
                .rev()
                .map(|index| (checksum >> (5 * index)) as u8 & 31),
        );
        let mut bolt11 = String::with_capacity(self.prefix.len() + 1 + data.len());
        bolt11.push_str(&self.prefix);
        bolt11.push('1');
        bolt11.extend(
            data.iter()
                .map(|group| char::from(CHARACTERS[usize::from(*group)])),
        );
        bolt11
    }
}

/// The prefix in the form that enters the checksum.
fn expanded(prefix: &str) -> impl Iterator<Item = u8> {
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low)
}

fn checksum_step(checksum: u32, group: u8) -> u32 {
    // The checksum has 30 bits.
    let top = (checksum >> 25 & 31) as usize;
    (checksum & 0x01ff_ffff) << 5 ^ u32::from(group) ^ STEPS[top]
}

/// Splits bytes into groups of five bits, the last one padded with zeros.
fn groups(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let count = (bytes.len() * 8).div_ceil(5);
    (0..count).map(move |index| {
        let bit = index * 5;
        let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
        let two = byte(bit / 8) << 8 | byte(bit / 8 + 1);
        (two >> (11 - bit % 8)) as u8 & 31
    })
}

/// Joins groups of five bits into bytes, the last one padded with zeros.
fn bytes(groups: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((groups.len() * 5).div_ceil(8));
    let (mut bits, mut held) = (0_u32, 0);
    for group in groups {
        bits = bits << 5 | u32::from(*group);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        bytes.push((bits << (8 - held)) as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_bytes_fit_together() {
        let some: Vec<u8> = (0..65_u8)
            .map(|number| number.wrapping_mul(37) ^ 0xa5)
            .collect();
        let fives: Vec<u8> = groups(&some).collect();
        assert_eq!(fives.len(), SIGNATURE);
        assert_eq!(bytes(&fives), some);
        assert_eq!(groups(&[0xff]).collect::<Vec<_>>(), [31, 28]);
        assert_eq!(bytes(&[31, 28]), [0xff, 0]);
    }

    #[test]
    fn what_is_no_invoice_makes_no_template() {
        for text in ["", "lnbc1", "lnbc1qqqq", "lnbcrt10n1b", "no invoice at all"] {
            assert!(Template::of(text).is_none(), "{text}");
        }
    }
}
