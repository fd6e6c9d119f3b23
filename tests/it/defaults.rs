//! The examples in the defaults file: removing the `#` of one must change no other setting.

use std::collections::BTreeMap;

use tollhouse::config::understood_with;

use crate::support::settings::Settings;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The settings of this text that are in the file, with their values.
fn written(settings: &Settings, text: &str) -> BTreeMap<String, String> {
    std::fs::write(settings.file(), text).unwrap();
    let file = settings.file().display().to_string();
    let all = understood_with(&settings.file(), []).unwrap_or_else(|error| panic!("{error}"));
    let there = all.into_iter().filter(|it| it.origin == file);
    there.map(|it| (it.key, it.value)).collect()
}

/// Whether a commented line is a setting of an example, and not a sentence.
fn is_setting(line: &str) -> bool {
    let Some(text) = line.strip_prefix("# ") else {
        return false;
    };
    let key = text.split_once(" = ").map(|(key, _)| key);
    key.is_some_and(|key| !key.is_empty() && !key.contains(' '))
}

#[test]
fn uncommenting_an_example_changes_no_other_setting() {
    let settings = Settings::new();
    let before = written(&settings, DEFAULTS);
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    let heads = (0..lines.len()).filter(|index| lines[*index].starts_with("# ["));
    let mut taken_in = 0;
    for head in heads {
        let Some(name) = lines[head]
            .strip_prefix("# ")
            .and_then(|line| line.split(']').next())
        else {
            continue;
        };
        // The tables in lists come last in the file; another test uses them together.
        if name.starts_with("[[") || name.starts_with("[route.") {
            continue;
        }
        let body = (head + 1..lines.len()).take_while(|index| is_setting(lines[*index]));
        let end = body.last().unwrap_or(head);
        let text: String = (0..)
            .zip(&lines)
            .map(|(index, line)| {
                let is_example = (head..=end).contains(&index);
                let line = if is_example { &line[2..] } else { line };
                format!("{line}\n")
            })
            .collect();
        let after = written(&settings, &text);
        for (key, value) in &before {
            assert_eq!(after.get(key), Some(value), "{key}, with {name}]");
        }
        assert!(after.len() > before.len(), "{name}]");
        taken_in += 1;
    }
    assert!(taken_in >= 5, "{taken_in}");
}
