//! A server that keeps the channels' state instead of the folder: LDK's versioned storage service
//! (VSS), used through ldk-node's own client. The client encrypts everything under the seed.
//!
//! Every state is on the server before a payment continues. So the loss of this machine loses no
//! state, and a restored state is never older than what a peer has seen. In return, the node can
//! write nothing while the server does not answer, and after some minutes LDK gives up and the
//! program ends. Two programs must never use the same store. ldk-node's client does not prevent
//! that, but the lease does.

mod client;
pub(crate) mod headers;
pub(crate) mod lease;
mod owner;
mod place;
pub(crate) mod trouble;
mod write_permit;

use std::io;
use std::path::Path;

use crate::base::secret_file;

use super::copy::FILE;
use super::database;
use super::error::ChannelStateError;

pub use headers::{Headers, HeadersError};
pub use lease::{RENEWED_WITHIN, StoreSeen, seen};
pub use place::Vss;
pub use write_permit::StoreStatus;

pub(crate) use place::Lost;
pub(crate) use write_permit::Pass;

/// The file that records which server has the state of this folder's node.
pub const MARK: &str = "vss.place";

/// Checks that the settings name the store of the node in this folder, and returns whether that
/// node has used a server before. Otherwise a node without its channels could start.
pub(crate) fn fits(vss: Option<&Vss>, folder: &Path) -> Result<bool, ChannelStateError> {
    let mark = folder.join(MARK);
    let place = match std::fs::read_to_string(&mark) {
        Ok(place) => Some(place.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(ChannelStateError::Folder(error)),
    };
    match (vss, place) {
        (None, None) => Ok(false),
        (Some(_), _) if database::is_any(folder) => {
            let path = folder.join(FILE);
            Err(ChannelStateError::Here { path })
        }
        (Some(vss), None) => {
            tracing::info!("The channels' state is kept by the server of node.vss: {vss}");
            Ok(false)
        }
        (Some(vss), Some(place)) if place == vss.to_string() => Ok(true),
        (Some(_) | None, Some(place)) => Err(ChannelStateError::Elsewhere { place, mark }),
    }
}

/// Records that the server has the node's state from now on. The record is on the disk before the
/// node has any channel.
pub(crate) fn note(vss: &Vss, folder: &Path) -> Result<(), ChannelStateError> {
    let mark = folder.join(MARK);
    if mark.exists() {
        return Ok(());
    }
    let noted = secret_file::replace(&mark, &format!("{vss}\n"));
    noted.map_err(ChannelStateError::Folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_never_begun_anew_because_the_settings_look_for_it_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let vss = |store_id: &str| Vss {
            url: "https://vss.example.com".to_owned(),
            store_id: store_id.to_owned(),
            headers: Headers::default(),
        };
        let (one, other) = (vss("one"), vss("other"));
        assert!(!fits(None, folder).unwrap());
        assert!(!fits(Some(&one), folder).unwrap());
        note(&one, folder).unwrap();
        assert!(fits(Some(&one), folder).unwrap());
        for wrong in [None, Some(&other)] {
            let said = fits(wrong, folder).unwrap_err().to_string();
            assert!(said.contains("one at https://vss.example.com"), "{said}");
        }
        std::fs::remove_file(folder.join(MARK)).unwrap();
        std::fs::write(folder.join(FILE), "x").unwrap();
        assert!(fits(None, folder).is_ok());
        assert!(matches!(
            fits(Some(&one), folder),
            Err(ChannelStateError::Here { .. })
        ));
    }
}
