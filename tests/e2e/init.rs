//! `tollhouse init` as a script and a person meet it: what it writes, what it refuses, and that the program takes it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use regtest::folder;

use crate::program;

/// Of BIP 39's own test vectors.
const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

fn tollhouse(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = program::tollhouse(folder);
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

const ALL: &[&str] = &[
    "init",
    "--network",
    "mutinynet",
    "--upstream",
    "http://127.0.0.1:3000",
    "--path",
    "/api/*",
    "--price",
    "21 sat",
    "--provider",
    "megalith",
    "--data-dir",
    "data",
];

#[test]
fn all_answers_as_flags_make_settings_that_the_program_takes() {
    let dir = folder::temporary().unwrap();
    let (code, told, complaint) = said(&tollhouse(dir.path(), ALL));
    assert_eq!(code, Some(0), "{complaint}");
    for part in [
        "NOT bring back channels",
        "tollhouse backup create",
        "megalith",
    ] {
        assert!(told.contains(part), "`{part}` in {told}");
    }
    let seed = dir.path().join("data/seed.words");
    let words = fs::read_to_string(&seed).unwrap();
    assert_eq!(words.split_whitespace().count(), 24);
    for word in words.split_whitespace() {
        assert!(told.contains(word), "the seed is shown once");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&seed), 0o600);
    assert_eq!(mode(&dir.path().join("data")), 0o700);
    let settings = fs::read_to_string(dir.path().join("tollhouse.toml")).unwrap();
    let some: Vec<_> = words.split_whitespace().take(3).collect();
    assert!(!settings.contains(&some.join(" ")), "no place for the seed");
    let (code, shown, complaint) = said(&tollhouse(
        dir.path(),
        &["check", "--config", "tollhouse.toml"],
    ));
    assert_eq!(code, Some(0), "{complaint}");
    for part in [
        "mutinynet",
        "megalith",
        "/api/*",
        "21 sat",
        "any number of requests",
    ] {
        assert!(shown.contains(part), "`{part}` in {shown}");
    }
    assert!(!dir.path().join("tollhouse.toml.draft").exists());

    // A second time nothing is replaced, neither the settings nor, under other settings, the seed.
    let (code, _, complaint) = said(&tollhouse(dir.path(), ALL));
    assert_eq!(code, Some(2));
    assert!(
        complaint.contains("tollhouse.toml is there already"),
        "{complaint}"
    );
    let elsewhere = [ALL, &["--config", "other.toml"]].concat();
    let (code, _, complaint) = said(&tollhouse(dir.path(), &elsewhere));
    assert_eq!(code, Some(2));
    assert!(
        complaint.contains("seed.words is there already"),
        "{complaint}"
    );
    assert!(!dir.path().join("other.toml").exists());
    assert_eq!(fs::read_to_string(&seed).unwrap(), words);
}

#[test]
fn without_a_terminal_a_missing_answer_is_named_by_its_flag_and_nothing_is_made() {
    let dir = folder::temporary().unwrap();
    for (without, flag) in [
        (1, "--network"),
        (3, "--upstream"),
        (7, "--price"),
        (9, "--provider"),
    ] {
        let mut some = ALL.to_vec();
        some.drain(without..without + 2);
        let (code, _, complaint) = said(&tollhouse(dir.path(), &some));
        assert_eq!(code, Some(2), "{complaint}");
        assert!(complaint.contains(&format!("{flag} ")), "{complaint}");
    }
    for (wrong, right, named) in [
        ("mutinynet", "testnet4", "testnet4 cannot"),
        ("21 sat", "21", "--price"),
        ("21 sat", "0.01 USD", "--price: a price in a currency"),
        ("megalith", "nobody", "--provider"),
        ("/api/*", "/../*", "--path"),
    ] {
        let answers: Vec<_> = ALL
            .iter()
            .map(|it| if *it == wrong { right } else { it })
            .collect();
        let (code, _, complaint) = said(&tollhouse(dir.path(), &answers));
        assert_eq!(code, Some(2), "{complaint}");
        assert!(complaint.contains(named), "{complaint}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_usual_is_taken_with_yes_and_the_seed_is_kept_quiet_if_wanted() {
    let dir = folder::temporary().unwrap();
    fs::create_dir(dir.path().join("pages")).unwrap();
    let (code, told, complaint) = said(&tollhouse(
        dir.path(),
        &[
            "init",
            "--network",
            "mainnet",
            "--files",
            "pages",
            "--yes",
            "--no-show-seed",
        ],
    ));
    assert_eq!(code, Some(0), "{complaint}");
    let seed = dir.path().join("tollhouse-data/seed.words");
    let words = fs::read_to_string(seed).unwrap();
    let words: Vec<_> = words.split_whitespace().collect();
    assert!(!told.contains(&words[..3].join(" ")), "{told}");
    assert!(!told.contains("These words"), "{told}");
    let settings = fs::read_to_string(dir.path().join("tollhouse.toml")).unwrap();
    for part in [
        "\"bitcoin\"",
        "This is real money",
        "\"megalith\"",
        "files = \"pages\"",
    ] {
        assert!(settings.contains(part), "`{part}` in {settings}");
    }
}

#[test]
fn words_that_are_there_already_are_taken_and_wrong_ones_are_explained_without_repeating_them() {
    let dir = folder::temporary().unwrap();
    let words = dir.path().join("words");
    let restore = [ALL, &["--restore-words-file", "words"]].concat();
    for (wrong, why) in [
        (WORDS.replace("yellow", "year"), "checksum"),
        (
            WORDS.replace("yellow", "yelow"),
            "word 12 is not in the English word list",
        ),
        ("legal winner thank".to_owned(), "12, 15, 18, 21 or 24"),
    ] {
        fs::write(&words, wrong).unwrap();
        let (code, told, complaint) = said(&tollhouse(dir.path(), &restore));
        assert_eq!(code, Some(1), "{complaint}");
        assert!(complaint.contains(why), "{complaint}");
        for word in ["legal", "winner", "sausage"] {
            assert!(
                !complaint.contains(word) && !told.contains(word),
                "{complaint}"
            );
        }
        assert!(!dir.path().join("tollhouse.toml").exists());
        assert!(!dir.path().join("data").exists());
    }
    // In capitals, and with the numbers that `init` itself shows them with.
    let capitals = WORDS.to_uppercase();
    let numbered = (1..).zip(capitals.split(' '));
    let numbered: Vec<_> = numbered
        .map(|(number, word)| format!("{number:>2} {word}"))
        .collect();
    fs::write(&words, numbered.join("\n")).unwrap();
    let (code, told, complaint) = said(&tollhouse(dir.path(), &restore));
    assert_eq!(code, Some(0), "{complaint}");
    assert!(
        !told.contains("sausage"),
        "whoever has them need not see them"
    );
    assert!(told.contains("restore its backup instead"), "{told}");
    let kept = fs::read_to_string(dir.path().join("data/seed.words")).unwrap();
    assert_eq!(kept.trim(), WORDS);
}
