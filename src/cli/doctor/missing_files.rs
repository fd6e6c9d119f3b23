//! Checks for a lost node folder or ledger.

use crate::account::ledger::Ledger;
use crate::config::Config;
use crate::node::made;

use super::findings::{Findings, Grade};

/// Goes by the same marks as the start of the program.
pub(crate) fn look(config: &Config, findings: &mut Findings) {
    let folder = &config.node.folder;
    if made::mark(folder).exists() && !made::is_there(folder) {
        let found = format!(
            "{} is gone or empty, and there was a node: put it back or restore the newest backup; the program does not start without",
            folder.display()
        );
        findings.note("node's folder", Grade::Bad, found);
    }
    if made::is_there(folder) && !Ledger::is_there(&config.ledger) {
        let found = format!(
            "{} is gone: put it back before the next start, or tokens that were used up or revoked are good again",
            config.ledger.folder.display()
        );
        findings.note("books", Grade::Bad, found);
    }
}
