//! The inside of `node`: which part may import which.

use super::imports::{Imports, imports};
use super::{PROGRAM, assert_none, source, sources};

/// The inside of `node`, by module; a part of a module may have a rank of its own. A file imports files of its own rank or below.
const NODE_RANKS: &[(&str, u8)] = &[
    // The node as a whole.
    ("describing", 5),
    ("facets", 5),
    ("run", 5),
    ("status", 5),
    ("recovery", 4),
    // What drives it.
    ("booking", 3),
    ("build", 3),
    ("chain::watch", 3),
    ("events", 3),
    ("start", 3),
    // Money, channels and peers.
    ("channels", 2),
    ("closed", 2),
    ("invoices", 2),
    ("liquidity", 2),
    ("pay_to", 2),
    ("payment", 2),
    ("payment_error", 2),
    ("payments", 2),
    ("peers", 2),
    ("wallet", 2),
    ("withdraw", 2),
    // The chain, and whether payments can arrive.
    ("chain", 1),
    ("deposits", 1),
    ("liquidity::builder", 1),
    ("map", 1),
    ("reach", 1),
    ("strangers", 1),
    ("sync", 1),
    // What all parts share.
    ("address", 0),
    ("arrived", 0),
    ("chain::behind", 0),
    ("chain::told", 0),
    ("channel_error", 0),
    ("coins", 0),
    ("config", 0),
    ("contested", 0),
    ("core", 0),
    ("door", 0),
    ("error", 0),
    ("keysends", 0),
    ("liquidity::settings", 0),
    ("log", 0),
    ("made", 0),
    ("operation", 0),
    ("panics", 0),
    ("peer_address", 0),
    ("standing", 0),
    ("stop", 0),
    ("threads", 0),
    ("wallet_error", 0),
    ("writing", 0),
];

/// The rank of a file of `node`: that of the longest name in the table.
fn node_rank(module: &[String]) -> Option<u8> {
    let inside = module.strip_prefix(&["node".to_owned()])?;
    let ranks = (1..=inside.len()).rev().find_map(|length| {
        let name = inside[..length].join("::");
        NODE_RANKS.iter().find(|(known, _)| *known == name)
    });
    ranks.map(|(_, rank)| *rank)
}

/// Imports inside of `node` of files that lie above the file's own, and files without a rank.
fn against_the_ranks_of_the_node(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    let is_inside = |module: &[String]| {
        module.len() > 1 && module[0] == "node" && module.last().is_none_or(|name| name != "tests")
    };
    for (from, to) in imports.iter().filter(|(from, _)| is_inside(from)) {
        let Some(own) = node_rank(from) else {
            found.push(format!("{}: a file that has no rank", from.join("::")));
            continue;
        };
        // A module lists its parts, whatever their rank.
        let others = to
            .iter()
            .filter(|to| is_inside(to) && !to.starts_with(from));
        for import in others {
            if node_rank(import).is_none_or(|rank| rank > own) {
                found.push(format!(
                    "{} ({own}) imports {}",
                    from.join("::"),
                    import.join("::")
                ));
            }
        }
    }
    found
}

#[test]
fn the_parts_of_the_node_import_only_parts_below_them() {
    assert_none(against_the_ranks_of_the_node(&imports(&sources(PROGRAM))));
    let wrong = [
        source("src/node/core.rs", "use super::wallet::Wallet;"),
        source("src/node/wallet.rs", "use super::core::Core;"),
        source("src/node/new.rs", ""),
    ];
    assert_eq!(against_the_ranks_of_the_node(&imports(&wrong)).len(), 2);
}
