//! The header lines of a challenge, in the one order that every deployed client reads.

use http::HeaderValue;

/// One `WWW-Authenticate` line per scheme: first L402, then LSAT for older clients. The lines are
/// never joined, and `macaroon=` and then `invoice=` come first: lnget and the Go interceptor match
/// exactly that, and read only the first line.
///
/// `macaroon` is standard base64 and `bolt11` a lower-case invoice. Neither can contain a quote, so
/// the result is never `None` for them.
pub fn www_authenticate(macaroon: &str, bolt11: &str) -> Option<[HeaderValue; 2]> {
    let l402 = format!(
        r#"L402 macaroon="{macaroon}", invoice="{bolt11}", version="0", token="{macaroon}""#
    );
    let lsat = format!(r#"LSAT macaroon="{macaroon}", invoice="{bolt11}""#);
    Some([l402.try_into().ok()?, lsat.try_into().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_what_the_go_interceptor_matches() {
        let [l402, lsat] = www_authenticate("TQ==", "lnbcrt1x").unwrap();
        assert_eq!(
            l402,
            r#"L402 macaroon="TQ==", invoice="lnbcrt1x", version="0", token="TQ==""#
        );
        assert_eq!(lsat, r#"LSAT macaroon="TQ==", invoice="lnbcrt1x""#);
    }
}
