//! Base64 as tokens stand in headers.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// The largest token that is read, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4_096;

/// Standard alphabet, padding as it comes.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Standard or URL-safe base64, padded or not; `None` if it is neither, empty, or longer than a token may be in it.
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

/// Standard base64 with padding, as it stands in a challenge.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
