//! Texts that people read, kept as files, so that a change of words is seen in review.

use std::path::Path;

/// The variable that makes the tests write the files.
const UPDATE: &str = "UPDATE_SNAPSHOTS";

/// Compares a text with `tests/snapshots/NAME.txt`, or writes the file if `UPDATE_SNAPSHOTS` is set. What changes from run to
/// run must be replaced before.
pub(crate) fn snapshot(name: &str, text: &str) {
    let path = format!("tests/snapshots/{name}.txt");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path);
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    if let Some(difference) = difference(&kept, &text) {
        panic!(
            "{path} differs, {difference}\nIf the new words are right: {UPDATE}=1 cargo test --locked --test it snapshots"
        );
    }
}

/// The first line that differs.
fn difference(kept: &str, text: &str) -> Option<String> {
    let (mut kept, mut text) = (kept.lines(), text.lines());
    let differs = (1..).find_map(|number| match (kept.next(), text.next()) {
        (None, None) => Some(None),
        (old, new) if old == new => None,
        (old, new) => Some(Some((number, old, new))),
    });
    let (number, old, new) = differs.flatten()?;
    let [old, new] = [old, new].map(|line| line.unwrap_or("(the end)"));
    Some(format!("line {number}:\n  file: {old}\n  now:  {new}"))
}

#[test]
fn the_first_line_that_differs_is_shown() {
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    for (kept, text, shown) in [
        ("a\nb\n", "a\nc\n", "line 2:\n  file: b\n  now:  c"),
        ("a\n", "a\nb\n", "line 2:\n  file: (the end)\n  now:  b"),
        ("a\n", "", "line 1:\n  file: a\n  now:  (the end)"),
    ] {
        assert_eq!(difference(kept, text).unwrap(), shown);
    }
}
