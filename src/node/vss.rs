//! A server that keeps the channels' state in the place of the folder: LDK's versioned storage service, by ldk-node's own client,
//! which encrypts everything under the seed.
//!
//! Every state is on the server before a payment goes on, so none is ever lost with this machine, and none is restored that is
//! older than what a peer has seen. What it asks in return: while the server is away the node does nothing, and after three minutes
//! the program ends; and two programs must never use one store, which ldk-node's client does not look after: [`lease`] does.

pub(super) mod lease;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

use super::NodeError;
use super::state::FILE;

/// Says on whose server the state of this folder's node is.
pub const MARK: &str = "vss.place";

/// Holds the folder's name for its lease.
const HOLDER: &str = "vss.holder";

/// A server, and the node's place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vss {
    /// Its base URL, without a slash at the end.
    pub url: String,
    /// The node's name there.
    pub store_id: String,
    /// What is sent with each request.
    pub headers: Headers,
}

/// Headers that say who asks: secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub HashMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers(…)")
    }
}

/// Where it is.
impl fmt::Display for Vss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.store_id, self.url)
    }
}

/// Whether the settings mean the node that was in this folder. A node without its channels must not begin in its place.
pub(super) fn fits(vss: Option<&Vss>, folder: &Path) -> Result<(), NodeError> {
    let mark = folder.join(MARK);
    let place = match std::fs::read_to_string(&mark) {
        Ok(place) => Some(place.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(NodeError::Folder(error)),
    };
    let file = folder.join(FILE);
    match (vss, place) {
        (None, None) => Ok(()),
        (Some(_), _) if file.exists() => Err(NodeError::StateHere { path: file }),
        (Some(vss), None) => {
            tracing::info!("The channels' state is kept by the server of node.vss: {vss}");
            Ok(())
        }
        (Some(vss), Some(place)) if place == vss.to_string() => Ok(()),
        (Some(_) | None, Some(place)) => Err(NodeError::StateElsewhere { place, mark }),
    }
}

/// Notes that the node's state is there from now on. On the disk before it has any channel.
pub(super) fn note(vss: &Vss, folder: &Path) -> Result<(), NodeError> {
    let mark = folder.join(MARK);
    if mark.exists() {
        return Ok(());
    }
    let noted = std::fs::write(&mark, format!("{vss}\n"))
        .and_then(|()| std::fs::File::open(&mark)?.sync_all())
        .and_then(|()| std::fs::File::open(folder)?.sync_all());
    noted.map_err(NodeError::Folder)
}

/// The name by which this folder holds its lease, made once. In no backup: a folder that is made from one is another one.
pub(super) fn holder(folder: &Path) -> Result<String, NodeError> {
    let path = folder.join(HOLDER);
    if let Ok(name) = std::fs::read_to_string(&path)
        && !name.is_empty()
    {
        return Ok(name);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| NodeError::Folder(error.into()))?;
    let name = hex::encode(random);
    std::fs::write(&path, &name).map_err(NodeError::Folder)?;
    Ok(name)
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
        assert!(fits(None, folder).is_ok());
        assert!(fits(Some(&one), folder).is_ok());
        note(&one, folder).unwrap();
        assert!(fits(Some(&one), folder).is_ok());
        for wrong in [None, Some(&other)] {
            let said = fits(wrong, folder).unwrap_err().to_string();
            assert!(said.contains("one at https://vss.example.com"), "{said}");
        }
        std::fs::remove_file(folder.join(MARK)).unwrap();
        std::fs::write(folder.join(FILE), "x").unwrap();
        assert!(fits(None, folder).is_ok());
        assert!(matches!(
            fits(Some(&one), folder),
            Err(NodeError::StateHere { .. })
        ));
    }
}
