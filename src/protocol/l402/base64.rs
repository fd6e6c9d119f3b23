//! Base64 of tokens in headers.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// The largest token that is read, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4_096;

/// The standard alphabet, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes standard or URL-safe base64, padded or not. Returns `None` if the text is invalid, empty
/// or too long for a token.
pub fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    if text.iter().any(|byte| matches!(byte, b'-' | b'_')) {
        let standard: Vec<u8> = text
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            })
            .collect();
        return LENIENT.decode(standard).ok();
    }
    LENIENT.decode(text).ok()
}

/// Encodes bytes as standard base64 with padding, the form in a challenge.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
