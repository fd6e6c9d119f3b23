//! The settings of a VSS server, which keeps the channels' state.

use crate::base::error_chain;
use crate::channel_state::vss::{Headers, Vss};
use crate::sell::quote::Address;

use super::meaning::Meaning;
use super::raw::RawVss;
use super::web_address::is_web_address;

/// The longest name of a store, in bytes.
const STORE_ID_BYTES_MAX: usize = 120;

impl Meaning<'_> {
    pub(super) fn vss(&mut self, raw: &RawVss) -> Option<Vss> {
        let url = raw.url.trim_end_matches('/');
        if !is_private(url) {
            let what = "write `https://host/path`, without a password or a query in it; without TLS (`http://`) only on this machine itself (127.0.0.1)";
            self.complain("node.vss.url", what);
            return None;
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let store_id = &raw.store_id;
        if store_id.is_empty()
            || store_id.len() > STORE_ID_BYTES_MAX
            || !store_id.bytes().all(is_name)
        {
            let what =
                "a name of letters, digits, `-`, `_` and `.`, which no other node of yours has";
            self.complain("node.vss.store_id", what);
            return None;
        }
        let headers = match &raw.headers_file {
            None => Headers::default(),
            Some(file) => self.headers(file)?,
        };
        Some(Vss {
            url: url.to_owned(),
            store_id: store_id.clone(),
            headers,
        })
    }

    fn headers(&mut self, file: &str) -> Option<Headers> {
        match Headers::read(self.secret("node.vss.headers_file", file)) {
            Ok(headers) => Some(headers),
            Err(error) => {
                self.complain("node.vss.headers_file", error_chain::chain(&error));
                None
            }
        }
    }
}

/// Whether the connection is encrypted or stays on this machine. The URL is shown and logged, so
/// secrets belong in the headers.
fn is_private(url: &str) -> bool {
    is_web_address(url) && url.parse::<Address>().is_ok_and(|url| url.is_private())
}
