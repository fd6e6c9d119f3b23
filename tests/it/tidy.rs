//! The architecture, held by reading the source: what the compiler cannot see inside one crate.

use std::path::{Path, PathBuf};

use tollhouse::store::migrations::MIGRATIONS;

/// A room may name rooms of a lower rank, and itself.
const RANKS: &[(&str, u8)] = &[
    ("main", 8),
    ("lib", 8),
    ("cli", 8),
    ("app", 7),
    ("config", 6),
    // Beside `config`: it answers as the public listener does, with the same answers.
    ("layer", 6),
    ("http", 5),
    ("admin", 6),
    ("backup", 5),
    ("node", 4),
    ("resource", 4),
    ("gate", 3),
    ("quote", 2),
    ("ledger", 2),
    ("route", 2),
    ("price", 1),
    ("invoice", 1),
    ("l402", 1),
    ("store", 1),
    ("amount", 0),
    ("causes", 0),
    ("clock", 0),
    ("live", 0),
    ("log", 1),
    ("pace", 0),
    ("room", 0),
    ("secret_file", 0),
    ("span", 0),
    ("sparing", 1),
    ("text", 0),
    ("via", 0),
];

/// What only some rooms may touch.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("ldk_node::", &["node"]),
    ("esplora_client::", &["node"]),
    ("rusqlite::", &["node"]),
    ("sled::", &["store"]),
    ("axum::", &["http", "admin"]),
    ("hyper::server", &["http", "node"]),
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
    ("utoipa_axum::", &["admin"]),
    ("std::env", &["config", "cli"]),
    ("toml::", &["config"]),
    ("SystemTime::now", &["clock"]),
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
        if self.path.starts_with("migrations/") {
            return "store";
        }
        let inside = self.path.strip_prefix("src/").unwrap();
        inside.split(['/', '.']).next().unwrap()
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

fn rank(room: &str) -> Option<u8> {
    let known = RANKS.iter().find(|(name, _)| *name == room);
    known.map(|(_, rank)| *rank)
}

/// The rooms that a piece of code names after `crate::`, also in a group: `crate::{gate, http::Limits}`.
fn rooms_named(code: &str) -> Vec<String> {
    let first_word = |text: &str| -> String {
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let mut named = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        // `other_crate::` is somebody else's.
        if code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + start.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            named.push(first_word(rest));
            continue;
        };
        let mut depth = 0_usize;
        let mut is_at_start = true;
        for (index, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_at_start = true,
                char if is_at_start && !char.is_whitespace() => {
                    named.push(first_word(&group[index..]));
                    is_at_start = false;
                }
                _ => {}
            }
        }
    }
    named
}

/// Names of rooms that do not lie below the file's own.
fn against_the_ranks(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some(own) = rank(room) else {
        return vec![source.complaint(1, "a room that has no rank")];
    };
    // A group may go over several lines, so the code is read as one piece.
    let code: String = source.code().map(|(_, line)| line + "\n").collect();
    let named = rooms_named(&code).into_iter();
    let wrong = named.filter(|named| named != room && rank(named).is_none_or(|rank| rank >= own));
    wrong
        .map(|named| source.complaint(1, &format!("{room} (rank {own}) names {named}")))
        .collect()
}

/// Outside crates where they do not belong.
fn out_of_place(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in source.code() {
        for (name, rooms) in OUTSIDE {
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
fn rooms_name_only_rooms_below_them() {
    assert_none(
        sources(PROGRAM)
            .iter()
            .flat_map(against_the_ranks)
            .collect(),
    );
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    assert_none(sources(PROGRAM).iter().flat_map(out_of_place).collect());
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
    let mut files: Vec<_> = sources(&["migrations", "src/store"])
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
    for bad in [
        "use crate::gate::Gate;",
        "use crate::{\n    amount::Msat,\n    http,\n};",
        "use crate::{l402::{Credential, verify}, node};",
        "fn a() -> crate::ledger::Ledger {",
        "pub(crate) use crate::route::Route;",
        "use crate::nowhere;",
    ] {
        assert_eq!(
            against_the_ranks(&source("src/l402/bad.rs", bad)).len(),
            1,
            "{bad}"
        );
    }
    assert_eq!(against_the_ranks(&source("src/unknown.rs", "")).len(), 1);
    let good = "use crate::{amount, l402::{gate, http}}; // crate::http\nlet x = \"crate::gate\"; other_crate::gate";
    assert_eq!(
        against_the_ranks(&source("src/l402.rs", good)),
        Vec::<String>::new()
    );
    assert_eq!(
        out_of_place(&source("src/ledger.rs", "fn a(db: sled::Db) {}")).len(),
        1
    );
    assert_eq!(
        out_of_place(&source(
            "src/gate/x.rs",
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
