//! Tables and texts for people.

use serde_json::Value;

use crate::base::text::{shown, shown_json};

/// A table with these titles, or the sentence `none` if it has no rows.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>], none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&titles).chain(rows).collect();
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let lines: Vec<String> = all.iter().map(line).collect();
    lines.join("\n")
}

/// A table of names and values, one pair in a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    let lines: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// The list of this name in an answer; empty if it is missing.
pub(super) fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

/// Text of several lines with control and invisible characters escaped, so that it is safe on a
/// terminal.
pub(super) fn lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(shown).collect();
    lines.join("\n")
}

/// Indented JSON with control and invisible characters escaped, so that it is safe on a terminal.
pub(super) fn json(value: &Value) -> String {
    let pretty = format!("{value:#}");
    let lines: Vec<_> = pretty.split('\n').map(shown_json).collect();
    lines.join("\n")
}

/// The text of a value, or a dash if it is missing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => shown(text).into_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            shown(&value.to_string()).into_owned()
        }
    }
}

/// The beginning of an id, long enough to tell ids apart in a table.
pub(super) fn short(value: &Value) -> String {
    text(value).chars().take(12).collect()
}

/// A number formatted by `shown`, or a dash if it is missing.
pub(super) fn number(value: &Value, shown: fn(u64) -> String) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = [
            vec!["a".to_owned(), "first".to_owned()],
            vec!["bcd".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(&["id", "what"], &rows, "none"),
            "id   what\na    first\nbcd  x"
        );
        assert_eq!(table(&["id"], &[], "there is none"), "there is none");
    }

    #[test]
    fn what_others_say_is_shown_and_no_order_to_a_terminal() {
        let said = "a\u{1b}]0;b\u{7}\r\n\u{9b}2J\u{7f}\u{202e}\u{2066}\u{2069}ä→𝄞";
        let spelt = "a\\u{1b}]0;b\\u{7}\\r\\n\\u{9b}2J\\u{7f}\\u{202e}\\u{2066}\\u{2069}ä→𝄞";
        assert_eq!(text(&said.into()), spelt);
        let is_readable = |text: &str| crate::base::text::readable(text).is_ok();
        assert!(is_readable(&text(&[said].as_slice().into())));
        assert_eq!(lines("one\ntwo\u{1b}"), "one\ntwo\\u{1b}");
        let said = format!("{said}\u{200b}\u{e0041}\u{2028}");
        let answer = serde_json::json!({ "order_id": said });
        let shown = json(&answer);
        assert!(is_readable(&shown.replace('\n', "")), "{shown}");
        let read: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read, answer, "it is the same JSON");
    }
}
