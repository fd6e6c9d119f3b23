//! The paths that a route reaches: one path or all below it, except those of more specific routes.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::sell::route::{Forward, Pattern};

/// The most folder entries that are searched for links.
const ENTRIES_MAX: usize = 20_000;

/// A path by its segments, and whether it includes everything below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    path: Vec<String>,
    is_below: bool,
}

/// The part of one place that a route reaches.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    region: Region,
    /// The parts that more specific routes serve.
    hidden: Vec<Region>,
    /// Whether this is a folder. Names in it that begin with a dot are not served, and links inside
    /// the folder are followed.
    is_folder: bool,
}

/// The segments of a path, decoded, with dots resolved.
fn segments(path: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split('/') {
        match &*percent_decode_str(segment).decode_utf8_lossy() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

fn components(path: &Path) -> Vec<String> {
    let names = path.iter().skip(1).map(OsStr::to_string_lossy);
    names.map(|name| name.into_owned()).collect()
}

/// Lower-cased segments, because many servers ignore case.
fn folded(path: impl IntoIterator<Item = String>) -> Vec<String> {
    path.into_iter().map(|name| name.to_lowercase()).collect()
}

fn parts(pattern: &Pattern) -> (Vec<String>, bool) {
    match pattern {
        Pattern::Exact(path) => (segments(path), false),
        Pattern::Below(path) => (segments(path), true),
    }
}

impl Region {
    /// A pattern relative to the prefix of `outer`; `None` if it is not inside `outer`.
    pub(super) fn within(pattern: &Pattern, outer: &Pattern) -> Option<Self> {
        let ((path, is_below), (outer, outer_is_below)) = (parts(pattern), parts(outer));
        let rest = path.strip_prefix(&outer[..]).filter(|_| outer_is_below)?;
        Some(Self {
            path: rest.to_vec(),
            is_below,
        })
    }

    fn covers(&self, other: &Self) -> bool {
        if self.is_below {
            other.path.starts_with(&self.path)
        } else {
            self == other
        }
    }

    fn below(self, mut base: Vec<String>) -> Self {
        base.extend(self.path);
        Self {
            path: base,
            is_below: self.is_below,
        }
    }
}

/// Writes a region such as `/v1/*`.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.path {
            write!(f, "/{segment}")?;
        }
        f.write_str(if self.is_below { "/*" } else { "" })
    }
}

impl Reach {
    /// The paths of a server that a route with this pattern reaches. `hidden` is relative to the
    /// pattern's prefix.
    pub(super) fn of_server(
        server: &Uri,
        forward: &Forward,
        pattern: &Pattern,
        hidden: &[Region],
    ) -> Self {
        let (path, is_below) = parts(pattern);
        let mut base = segments(server.path());
        base.extend(segments(&forward.add_prefix));
        if !forward.strip_prefix {
            base.extend(path);
        }
        let base = folded(base);
        let hidden = hidden.iter().map(|region| Region {
            path: folded(region.path.clone()),
            is_below: region.is_below,
        });
        Self {
            hidden: hidden.map(|region| region.below(base.clone())).collect(),
            region: Region {
                path: base,
                is_below,
            },
            is_folder: false,
        }
    }

    /// The files that a route to this folder reaches. The folder's own path must not contain links.
    pub(super) fn of_folder(folder: &Path, hidden: &[Region]) -> Self {
        let base = components(folder);
        let hidden = hidden.iter().cloned();
        Self {
            hidden: hidden.map(|region| region.below(base.clone())).collect(),
            region: Region {
                path: base,
                is_below: true,
            },
            is_folder: true,
        }
    }

    /// The part that both reach.
    pub(super) fn meets(&self, other: &Self) -> Option<Region> {
        let (one, two) = (&self.region, &other.region);
        let met = if one.covers(two) {
            two
        } else if two.covers(one) {
            one
        } else {
            return None;
        };
        (self.reaches(met) && other.reaches(met)).then(|| met.clone())
    }

    /// Whether this route serves any part of a region inside its own.
    fn reaches(&self, region: &Region) -> bool {
        let rest = region
            .path
            .get(self.region.path.len()..)
            .unwrap_or_default();
        let is_dotted = self.is_folder && rest.iter().any(|name| name.starts_with('.'));
        !is_dotted && !self.hidden.iter().any(|hidden| hidden.covers(region))
    }

    /// The part that `other` reaches only through a link inside its folder.
    pub(super) fn meets_by_a_link(&self, other: &Self) -> Option<Region> {
        if !other.region.covers(&self.region) {
            return None;
        }
        let folder: PathBuf = std::iter::once("/")
            .chain(other.region.path.iter().map(String::as_str))
            .collect();
        let mut links = links(&folder).into_iter();
        links.find_map(|(link, target)| {
            let link = Region {
                path: components(&link),
                is_below: target.is_dir(),
            };
            let target = Region {
                path: components(&target),
                is_below: link.is_below,
            };
            // The route does not follow a link out of the folder or to a hidden name.
            let is_served = other.reaches(&link) && other.region.covers(&target);
            let through = Self {
                region: target,
                hidden: Vec::new(),
                is_folder: true,
            };
            self.meets(&through).filter(|_| is_served)
        })
    }
}

/// The links in a folder and below it, each with its target.
fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut links = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut left = ENTRIES_MAX;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if left == 0 {
                return links;
            }
            left -= 1;
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if kind.is_ok_and(|kind| kind.is_symlink())
                && let Ok(target) = path.canonicalize()
            {
                links.push((path, target));
            }
        }
    }
    links
}
