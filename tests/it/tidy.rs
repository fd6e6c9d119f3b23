//! The architecture, held by reading the source: what the compiler cannot see inside one crate.

mod imports;
mod node;
mod words;

use std::path::{Path, PathBuf};

use imports::{Imports, circles, imports};
use tollhouse::account::store::migrations::MIGRATIONS;

/// The wings of `src/`: their modules are the rooms. Every other module of `src/` is a room itself.
const WINGS: &[&str] = &["account", "operate", "protocol", "sell"];

/// A room may import rooms of a lower rank, and itself.
const RANKS: &[(&str, u8)] = &[
    ("main", 9),
    ("lib", 9),
    ("cli", 9),
    ("app", 8),
    ("layer", 7),
    ("api", 7),
    ("config", 7),
    ("http", 6),
    ("backup", 6),
    ("resource", 5),
    ("gate", 4),
    ("node", 4),
    ("quote", 3),
    ("channel_state", 3),
    ("route", 2),
    ("ledger", 2),
    ("chain", 2),
    ("keys", 2),
    ("l402", 1),
    ("invoice", 1),
    ("store", 1),
    ("base", 0),
];

/// What only some rooms may touch.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("ldk_node::", &["node"]),
    ("ldk_node::io::sqlite_store", &["channel_state"]),
    ("esplora_client::", &["chain", "node"]),
    ("electrum_client::", &["chain"]),
    ("rusqlite::", &["channel_state"]),
    ("bip39::", &["keys", "node"]),
    ("sled::", &["store"]),
    ("axum::", &["http", "api"]),
    ("hyper::server", &["http", "chain"]),
    ("hyper_rustls::", &["backup", "cli", "quote", "resource"]),
    (
        "hyper_util::client",
        &["backup", "cli", "quote", "resource"],
    ),
    ("rusty_s3::", &["backup"]),
    ("ppp::", &["http"]),
    ("chacha20poly1305::", &["backup"]),
    ("aead_stream::", &["backup"]),
    ("rustls_acme::", &["http"]),
    ("ipnet::", &["http"]),
    ("tower_http::", &["resource"]),
    ("mime_guess::", &["resource"]),
    ("anyhow::", &["cli", "main"]),
    ("clap::", &["cli"]),
    ("clap_complete::", &["cli"]),
    ("utoipa_axum::", &["api"]),
    ("std::env", &["config", "cli"]),
    ("toml::", &["config"]),
    ("SystemTime::now", &["base"]),
];

/// Lines that a file may have besides its unit tests. A longer one says in its module doc that it is `long because` of what.
const LINES_MAX: usize = 500;
const LINES_MAX_OF: &[(&str, usize)] = &[("src/main.rs", 60), ("src/app.rs", 300)];

/// A source file: where it is, from the root of the repository, and what stands in it.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The room of a file of the program; migrations belong to the store.
    fn room(&self) -> &str {
        let Some(inside) = self.path.strip_prefix("src/") else {
            return "store";
        };
        room(inside.trim_end_matches(".rs").split('/'))
    }

    /// Lines of code with their numbers: no comments, which may name anything, and no text.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        let numbered = (1..).zip(self.text.lines());
        numbered.map(|(number, line)| (number, without_comment(line)))
    }

    fn complaint(&self, number: usize, what: &str) -> String {
        format!("{}:{number}: {what}", self.path)
    }
}

/// The line up to a comment, with the content of string literals taken out.
fn without_comment(line: &str) -> String {
    let mut code = String::new();
    let mut is_text = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if is_text => drop(chars.next()),
            '"' => is_text = !is_text,
            '/' if !is_text && chars.peek() == Some(&'/') => break,
            _ if is_text => {}
            _ => code.push(char),
        }
    }
    code
}

/// The room in which a path of names leads. A wing alone is one, without a rank: nobody imports all of it.
fn room<'a>(names: impl IntoIterator<Item = &'a str>) -> &'a str {
    let mut names = names.into_iter();
    let first = names.next().unwrap_or("lib");
    let is_wing = WINGS.contains(&first);
    names.next().filter(|_| is_wing).unwrap_or(first)
}

fn rank(room: &str) -> Option<u8> {
    let known = RANKS.iter().find(|(name, _)| *name == room);
    known.map(|(_, rank)| *rank)
}

/// Imports of rooms that do not lie below the file's own.
fn against_the_ranks(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in imports {
        let own = room(from.iter().map(String::as_str));
        if WINGS.contains(&own) {
            // It lists its rooms, and names them in its documentation.
            assert!(to.iter().all(|to| to.starts_with(from)), "{from:?}");
            continue;
        }
        let Some(own_rank) = rank(own) else {
            found.push(format!("{}: a room that has no rank", from.join("::")));
            continue;
        };
        for import in to {
            let other = room(import.iter().map(String::as_str));
            if other != own && rank(other).is_none_or(|rank| rank >= own_rank) {
                let (from, import) = (from.join("::"), import.join("::"));
                found.push(format!("{from} ({own}, {own_rank}) imports {import}"));
            }
        }
    }
    found
}

/// Outside crates where they do not belong.
fn out_of_place(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in source.code() {
        for (name, rooms) in OUTSIDE {
            let is_part_of = |longer: &str| longer != *name && longer.starts_with(name);
            if OUTSIDE
                .iter()
                .any(|(longer, _)| is_part_of(longer) && line.contains(longer))
            {
                continue;
            }
            let is_named = line.match_indices(name).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            });
            if is_named && !rooms.contains(&source.room()) {
                found.push(source.complaint(number, &format!("{name} outside {rooms:?}")));
            }
        }
    }
    found
}

/// What no file may hold. Written in two parts, so that this file does not hold it.
fn forbidden() -> Vec<String> {
    [
        ("#[ign", "ore"),
        ("Other(Str", "ing)"),
        ("TO", "DO"),
        ("FIX", "ME"),
        ("dbg", "!("),
    ]
    .map(|(start, end)| format!("{start}{end}"))
    .into()
}

fn unwanted(source: &Source) -> Vec<String> {
    let lines = (1..).zip(source.text.lines());
    lines
        .flat_map(|(number, line)| {
            let found = forbidden().into_iter().filter(|word| line.contains(word));
            found
                .map(|word| source.complaint(number, &word))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Macros that panic if they cannot write: commands write through `cli/output.rs`, everything else is logged.
fn printing(source: &Source) -> Vec<String> {
    let found = source.code().filter(|(_, line)| {
        line.contains(concat!("print", "ln!(")) || line.contains(concat!("print", "!("))
    });
    found
        .map(|(number, _)| source.complaint(number, "panics where it cannot write"))
        .collect()
}

/// How much too long a file is.
fn too_long(source: &Source) -> Option<String> {
    let lines = source.text.lines();
    let count = lines.take_while(|line| *line != "#[cfg(test)]").count();
    let own = LINES_MAX_OF.iter().find(|(path, _)| *path == source.path);
    let max = own.map_or(LINES_MAX, |(_, max)| *max);
    let doc = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"));
    let says_why = own.is_none()
        && doc
            .fold(String::new(), |doc, line| doc + line)
            .contains("long because");
    (count > max && !says_why).then(|| source.complaint(count, &format!("more than {max} lines")))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below these folders of the repository.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 2, "the scanner sees the files");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(Source { path: shown, text });
        }
    }
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

const PROGRAM: &[&str] = &["src", "migrations"];
const EVERYTHING: &[&str] = &["src", "migrations", "regtest/src", "tests", "examples"];

#[test]
fn rooms_import_only_rooms_below_them() {
    assert_none(against_the_ranks(&imports(&sources(PROGRAM))));
}

/// Files that import each other, by the room that they are in: how many there are in each circle. Whoever reads one of them must read
/// all, so these become fewer and never more.
const CIRCLES: &[(&str, usize)] = &[("chain", 14), ("channel_state", 2), ("store", 6)];

#[test]
fn no_two_files_import_each_other() {
    let circles = circles(&imports(&sources(PROGRAM)));
    let mut found = Vec::new();
    for circle in &circles {
        let names: Vec<_> = circle.iter().map(|module| module.join("::")).collect();
        let first = circle.first().into_iter().flatten().map(String::as_str);
        found.push((room(first), circle.len(), names.join(" ")));
    }
    found.sort();
    let counts: Vec<_> = found
        .iter()
        .map(|(room, count, _)| (*room, *count))
        .collect();
    assert_eq!(counts, CIRCLES, "\n{found:#?}");
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    assert_none(sources(PROGRAM).iter().flat_map(out_of_place).collect());
}

#[test]
fn comments_and_documents_are_in_plain_words() {
    let mut found: Vec<_> = sources(PROGRAM)
        .iter()
        .flat_map(words::in_comments)
        .collect();
    let mut documents = vec![PathBuf::from("README.md")];
    for folder in ["docs", "config"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        documents.extend(entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name())));
    }
    for path in documents {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let path = path.display().to_string();
        found.extend(words::in_text(&Source { path, text }));
    }
    assert_none(found);
    for (text, count) in [
        ("// Nobody pays", 1),
        ("let nobody = 1;", 0),
        ("// renewed, anew.", 1),
    ] {
        assert_eq!(
            words::in_comments(&source("src/x.rs", text)).len(),
            count,
            "{text}"
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    assert_none(sources(EVERYTHING).iter().flat_map(unwanted).collect());
}

#[test]
fn no_panicking_print_macro_is_used() {
    assert_none(sources(PROGRAM).iter().flat_map(printing).collect());
    for bad in ["println!(\"a\")", "    eprint!(\"a\")", "std::eprintln!()"] {
        assert_eq!(printing(&source("src/x.rs", bad)).len(), 1, "{bad}");
    }
    let good = "// println!()\nlet a = \"print!()\"; writeln!(out)";
    assert_eq!(printing(&source("src/x.rs", good)), Vec::<String>::new());
}

#[test]
fn files_are_short_or_say_why_not() {
    assert_none(sources(EVERYTHING).iter().filter_map(too_long).collect());
}

#[test]
fn the_migrations_folder_and_its_list_agree() {
    let mut files: Vec<_> = sources(&["migrations", "src/account"])
        .into_iter()
        .filter_map(|source| {
            let name = source
                .path
                .strip_prefix("migrations/")?
                .strip_suffix(".rs")?
                .to_owned();
            (name != "mod").then_some(name)
        })
        .collect();
    files.sort();
    let listed: Vec<_> = MIGRATIONS
        .iter()
        .map(|migration| migration.file.to_owned())
        .collect();
    assert_eq!(files, listed);
    for (number, migration) in (1..).zip(MIGRATIONS) {
        assert_eq!(migration.version, number);
        assert!(migration.file.starts_with(&format!("m{number:04}_")));
    }
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[test]
fn the_scanner_sees_what_is_wrong() {
    let files = |text: &str| {
        let bad = source("src/protocol/l402/bad.rs", text);
        let others = ["src/sell/gate.rs", "src/sell/http.rs", "src/node.rs"];
        let mut all: Vec<_> = others.map(|path| source(path, "")).into();
        all.extend([
            bad,
            source("src/base.rs", ""),
            source("src/protocol/l402.rs", ""),
        ]);
        against_the_ranks(&imports(&all)).len()
    };
    for bad in [
        "use crate::sell::gate::Gate;",
        "use crate::{\n    base::amount::Msat,\n    sell::http,\n};",
        "use crate::{protocol::l402::{Credential, verify}, node};",
        "fn a() -> crate::node::Node {",
        "pub(crate) use crate::sell::gate::Route;",
        "use super::super::super::sell::gate;",
    ] {
        assert_eq!(files(bad), 1, "{bad}");
    }
    let good = "use crate::{base, protocol::l402}; // crate::sell::http\nlet x = \"crate::node\"; other_crate::node::a";
    assert_eq!(files(good), 0);
    let unknown = [source("src/unknown.rs", ""), source("src/base.rs", "")];
    assert_eq!(against_the_ranks(&imports(&unknown)).len(), 1);
    assert_eq!(
        out_of_place(&source("src/account/ledger.rs", "fn a(db: sled::Db) {}")).len(),
        1
    );
    assert_eq!(
        out_of_place(&source(
            "src/sell/gate/x.rs",
            "use ldk_node::Node;\nuse axum::Router;"
        ))
        .len(),
        2
    );
    let good = "sled::Db // axum::\nlet x = \"ldk_node::\"; my_axum::a";
    assert_eq!(
        out_of_place(&source("migrations/m1.rs", good)),
        Vec::<String>::new()
    );
    for word in forbidden() {
        assert_eq!(
            unwanted(&source("src/x.rs", &format!("a\n{word} b"))),
            [format!("src/x.rs:2: {word}")]
        );
    }
}

#[test]
fn the_scanner_counts_lines_besides_unit_tests() {
    let long = |path, lines: usize, start: &str, end: &str| {
        too_long(&source(
            path,
            &format!("{start}\n{}{end}", "x\n".repeat(lines)),
        ))
        .is_some()
    };
    assert!(long("src/x.rs", 500, "//! A file.", ""));
    assert!(!long("src/x.rs", 499, "//! A file.", ""));
    assert!(!long(
        "src/x.rs",
        499,
        "//! A file.",
        "#[cfg(test)]\nmod tests {}"
    ));
    assert!(!long(
        "src/x.rs",
        900,
        "//! A file, long because of a table.",
        ""
    ));
    assert!(long(
        "src/app.rs",
        300,
        "//! Long, long because of nothing.",
        ""
    ));
    assert!(long("src/main.rs", 60, "//! Main.", ""));
}
