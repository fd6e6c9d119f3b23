//! The server of the channel state, and why it may not be written.

use std::fmt;

use crate::channel_state::error::ChannelStateError;

use super::headers::Headers;

/// Why the node must write nothing more, if it must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The node may write.
    #[default]
    No,
    /// Another program uses the state.
    Taken,
    /// The server no longer has the state.
    Gone,
    /// LDK could not write the state, and has given up.
    GivenUp,
}

impl Lost {
    pub(crate) fn why(self) -> Option<ChannelStateError> {
        match self {
            Self::No => None,
            Self::Taken => Some(ChannelStateError::Taken),
            Self::Gone => Some(ChannelStateError::Gone),
            Self::GivenUp => Some(ChannelStateError::Away),
        }
    }
}

/// A server and the node's store there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vss {
    /// The server's base URL, without a slash at the end.
    pub url: String,
    /// The name of the node's store.
    pub store_id: String,
    /// The headers of each request.
    pub headers: Headers,
}

/// The store and its server.
impl fmt::Display for Vss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.store_id, self.url)
    }
}
