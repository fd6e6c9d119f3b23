//! The documents are true as far as a program can tell: links lead somewhere, named files exist, settings are accepted, and
//! commands parse.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where files lie that the documents name.
const FOLDERS: &[&str] = &[
    "src/",
    "tests/",
    "regtest/",
    "scripts/",
    "config/",
    "examples/",
];

/// A document: its path from the root of the repository, and its text.
struct Document {
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &Path) -> Document {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    let path = path.to_owned();
    Document { path, text }
}

fn documents() -> Vec<Document> {
    let mut paths = vec![PathBuf::from("README.md")];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        paths.push(Path::new("docs").join(entry.unwrap().file_name()));
    }
    assert!(paths.len() > 5, "the test sees the documents");
    paths.iter().map(|path| document(path)).collect()
}

impl Document {
    /// The blocks of this language, each with the number of its first line.
    fn blocks(&self, language: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut open: Option<(bool, usize, String)> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (line.strip_prefix("```"), open.take()) {
                (Some(_), Some((true, start, block))) => found.push((start, block)),
                (Some(_), Some((false, ..))) => {}
                (Some(named), None) => open = Some((named == language, number + 1, String::new())),
                (None, Some((is_wanted, start, block))) => {
                    open = Some((is_wanted, start, block + line + "\n"));
                }
                (None, None) => {}
            }
        }
        found
    }

    /// The lines outside of blocks.
    fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_block = false;
        let mut found = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            if line.starts_with("```") {
                is_block = !is_block;
            } else if !is_block {
                found.push((number, line));
            }
        }
        found
    }

    /// The anchors of its headings, as hosts of repositories make them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().into_iter();
        let headings = headings.filter_map(|(_, line)| {
            let text = line.trim_start_matches('#');
            (text.len() < line.len()).then(|| text.trim())
        });
        headings.map(anchor).collect()
    }

    fn complaint(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }
}

fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The texts between these marks in a line.
fn between<'a>(line: &'a str, start: &str, end: char) -> Vec<&'a str> {
    let parts = line.split(start).skip(1);
    parts
        .filter_map(|part| Some(part.split_once(end)?.0))
        .collect()
}

/// Why a link does not lead anywhere.
fn broken(from: &Document, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
    let folder = from.path.parent().unwrap_or(Path::new(""));
    let path = match file {
        "" => from.path.clone(),
        file => folder.join(file),
    };
    if !root().join(&path).exists() {
        return Some(format!("{link} does not exist"));
    }
    let is_there = wanted.is_empty() || document(&path).anchors().contains(wanted);
    (!is_there).then(|| format!("{link}: no such heading"))
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut found = Vec::new();
    for document in documents() {
        for (number, line) in document.prose() {
            let broken = between(line, "](", ')')
                .into_iter()
                .filter_map(|link| broken(&document, link));
            found.extend(broken.map(|what| document.complaint(number, &what)));
        }
    }
    assert_none(found);
}

#[test]
fn files_of_the_source_that_are_named_exist() {
    let mut found = Vec::new();
    for document in documents() {
        for (number, line) in document.prose() {
            for name in line.split('`').skip(1).step_by(2) {
                let name = name.split(['#', ':', ' ']).next().unwrap_or_default();
                let is_path = FOLDERS.iter().any(|folder| name.starts_with(folder))
                    || name.contains('/') && name.ends_with(".rs");
                // The layout names files from `src/` on.
                let is_there = ["", "src"]
                    .iter()
                    .any(|folder| root().join(folder).join(name).exists());
                if is_path && !name.contains(['*', '{', '<']) && !is_there {
                    found.push(document.complaint(number, &format!("{name} does not exist")));
                }
            }
        }
    }
    assert_none(found);
}

#[test]
fn every_settings_file_in_the_documents_is_accepted() {
    let mut found = Vec::new();
    let mut count = 0;
    for document in documents() {
        for (number, block) in document.blocks("toml") {
            count += 1;
            let folder = regtest::folder::temporary().unwrap();
            std::fs::create_dir(folder.path().join("articles")).unwrap();
            let file = folder.path().join("tollhouse.toml");
            std::fs::write(&file, block).unwrap();
            if let Err(complaints) = tollhouse::config::load_with(&file, []) {
                found.push(document.complaint(number, &complaints.to_string()));
            }
        }
    }
    assert!(count > 10, "the test sees the blocks");
    assert_none(found);
}

#[test]
fn every_command_in_the_documents_parses() {
    let mut found = Vec::new();
    let mut count = 0;
    for document in documents() {
        for (number, block) in document.blocks("sh") {
            let block = block.replace("\\\n", " ");
            for line in block.lines().filter(|line| line.starts_with("tollhouse ")) {
                count += 1;
                if let Some(what) = refused(line) {
                    found.push(document.complaint(number, &what));
                }
            }
        }
    }
    assert!(count > 20, "the test sees the commands");
    assert_none(found);
}

/// Why the program does not understand this line. It is asked for help at the end of the line, so that it does nothing.
fn refused(line: &str) -> Option<String> {
    let line = line.split(['#', '|', '>', '<']).next().unwrap_or_default();
    let script = format!("set -- {line}; shift; exec \"$0\" \"$@\" --help");
    let asked = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_tollhouse")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr);
    (!asked.status.success()).then(|| format!("{line}: {said}"))
}
