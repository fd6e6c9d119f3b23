//! Ids on the command line. Malformed ids are rejected here, because a slip in an id could change
//! the path of a request or name another object.

/// The length in bytes of a channel id or a token id.
const ID_BYTES: usize = 32;

/// The length in bytes of a node id, which is a compressed public key.
const NODE_ID_BYTES: usize = 33;

/// Reads a channel id.
pub(super) fn channel(text: &str) -> Result<String, String> {
    hex_of(text, ID_BYTES).ok_or_else(|| {
        wrong(
            text,
            "a channel",
            "64 hex digits, as `tollhouse channels list` shows it",
        )
    })
}

/// Reads a node id.
pub(super) fn node(text: &str) -> Result<String, String> {
    hex_of(text, NODE_ID_BYTES).ok_or_else(|| {
        wrong(
            text,
            "a node",
            "66 hex digits, as `tollhouse peers list` shows it",
        )
    })
}

/// Reads an id of any form, because only its issuer knows the form.
pub(super) fn any(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("an id is wanted here, and there is nothing".to_owned()),
        id => Ok(id.to_owned()),
    }
}

/// Checks that the text is this many bytes in hex, and returns it in lower case.
fn hex_of(text: &str, bytes: usize) -> Option<String> {
    let id = text.trim().to_ascii_lowercase();
    let is_hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex && id.len() == 2 * bytes).then_some(id)
}

fn wrong(text: &str, whose: &str, form: &str) -> String {
    format!("`{}` is no id of {whose}: it has {form}", text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_id_is_refused_and_never_mended() {
        let id = "ab".repeat(32);
        assert_eq!(channel(&id), Ok(id.clone()));
        assert_eq!(
            channel(&format!(" {}\n", id.to_uppercase())),
            Ok(id.clone())
        );
        for wrong in [
            "",
            "foo",
            &id[1..],
            &format!("zz{id}"),
            &format!("{id}/close"),
            &format!("{id}ab"),
        ] {
            assert!(channel(wrong).is_err(), "{wrong}");
        }
        let peer = format!("02{id}");
        assert_eq!(node(&peer), Ok(peer.clone()));
        for wrong in ["", "f", "foo", &id, &format!("{peer}@127.0.0.1:9735")] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
        assert_eq!(any(" order-1 "), Ok("order-1".to_owned()));
        assert!(any(" ").is_err());
    }
}
