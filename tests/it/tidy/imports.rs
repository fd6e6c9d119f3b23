//! Who imports whom: the paths in the source, resolved to files.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A module, as its path from the crate's root.
pub(super) type Module = Vec<String>;

/// Which files each file imports.
pub(super) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Which files each file of the program imports, unit tests left out. A path that a module of that file passes on counts as that
/// file's.
pub(super) fn imports(sources: &[Source]) -> Imports {
    let known: BTreeSet<Module> = sources.iter().map(|source| module(&source.path)).collect();
    let of = |source: &Source| {
        let own = module(&source.path);
        let named = paths(&code(source)).into_iter();
        let files = named.filter_map(|path| file(&own, path, &known));
        let others = files.filter(|file| *file != own).collect();
        (own, others)
    };
    sources.iter().map(of).collect()
}

/// The module that a file is.
fn module(path: &str) -> Module {
    // The migrations are modules of the store.
    let path = path.replace("migrations/mod.rs", "src/account/store/migrations.rs");
    let path = path.replace("migrations/m", "src/account/store/migrations/m");
    let inside = path.strip_prefix("src/").unwrap_or(&path);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let names = inside.split('/').map(str::to_owned);
    names.filter(|name| name != "lib").collect()
}

/// The code besides the unit tests, in one piece: a path may go over several lines.
fn code(source: &Source) -> String {
    let lines = source.code().map(|(_, line)| line);
    let lines = lines.take_while(|line| line != "#[cfg(test)]");
    // `pub(in path)` says who may see an item, and imports nothing.
    let lines = lines.map(|line| line.replace("pub(in crate::", "pub(in "));
    lines.map(|line| line + "\n").collect()
}

/// The file that a path leads to, if it is one of the program's.
fn file(own: &Module, path: Vec<String>, known: &BTreeSet<Module>) -> Option<Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let mut whole = match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "super" => [&own[..own.len().checked_sub(ups)?], &path[ups..]].concat(),
        "self" => [own, &path[1..]].concat(),
        child => {
            let is_child = known.contains(&[own.as_slice(), &[child.to_owned()]].concat());
            is_child.then(|| [own.as_slice(), &path].concat())?
        }
    };
    while !known.contains(&whole) {
        whole.pop()?;
    }
    Some(whole)
}

/// Every path of two names or more, those in groups too: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let words = words(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let begins = is_name(words[at]) && words.get(at + 1) == Some(&"::");
        if begins && (at == 0 || words[at - 1] != "::") {
            at = read(&words, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads a path from here on, and says where it ends.
fn read(words: &[&str], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        match words.get(at) {
            Some(&"{") => {
                at += 1;
                while let Some(word) = words.get(at)
                    && *word != "}"
                {
                    at = if is_name(word) {
                        read(words, at, &path, found)
                    } else {
                        at + 1
                    };
                }
                return at + 1;
            }
            Some(word) if is_name(word) => path.push((*word).to_owned()),
            _ => {}
        }
        if words.get(at + 1) != Some(&"::") {
            found.push(path);
            return at + 1;
        }
        at += 2;
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_')
}

/// Names, `::`, and all other characters but blanks, each alone.
fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("::") {
            2
        } else if first.is_ascii_alphanumeric() || first == '_' {
            let end = rest.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
            end.unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            words.push(&rest[..len]);
        }
        rest = &rest[len..];
    }
    words
}

/// Files that import each other, in groups: whoever reads one of a group must read all of it.
pub(super) fn circles(imports: &Imports) -> Vec<BTreeSet<Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|from| (from, reached(from, imports)))
        .collect();
    let mut found = Vec::new();
    for (from, to) in &reach {
        let circle: BTreeSet<Module> = to
            .iter()
            .filter(|there| reach.get(*there).is_some_and(|back| back.contains(from)))
            .map(|there| (*there).clone())
            .collect();
        if !circle.is_empty() && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// All that a file needs, however far away; itself only if it is in a circle.
fn reached<'a>(from: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for import in imports.get(module).into_iter().flatten() {
            if reached.insert(import) {
                next.push(import);
            }
        }
    }
    reached
}

#[test]
fn paths_are_resolved_to_files() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let sources = [
        source("src/lib.rs", "pub mod a;"),
        source("src/a.rs", "mod b;\nuse b::{B, c::{self, C}};"),
        source("src/a/b.rs", "use super::A; // crate::d\n"),
        source(
            "src/a/b/c.rs",
            "fn f() -> crate::d::D { super::super::x() }",
        ),
        source("src/d.rs", "use std::fmt;\n#[cfg(test)]\nuse crate::a;"),
    ];
    let named = |from: &str| -> Vec<String> {
        let found = &imports(&sources)[&module(from)];
        found.iter().map(|module| module.join("::")).collect()
    };
    assert_eq!(named("src/a.rs"), ["a::b", "a::b::c"]);
    assert_eq!(named("src/a/b.rs"), ["a"]);
    assert_eq!(named("src/a/b/c.rs"), ["a", "d"]);
    assert_eq!(named("src/d.rs"), Vec::<String>::new());
    let circles = circles(&imports(&sources));
    assert_eq!(circles.len(), 1);
    assert_eq!(circles[0].len(), 3, "a, a::b and a::b::c");
}
