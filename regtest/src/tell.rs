//! Everything that the program says on standard output, readable in 80 columns, with emphasis only on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// What a narrow terminal shows.
const COLUMNS: usize = 80;
/// Where the text beside a label starts.
const LABEL_COLUMNS: usize = 22;

/// Writes a line. A reader that has gone away is no reason to fail: the network still has to be taken down.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a heading after an empty line.
pub(crate) fn heading(text: &str) {
    line("");
    line(&emphasised("1", text));
}

/// Writes what goes to the merchant or comes from it.
pub(crate) fn wire(text: &str) {
    line(&format!("  {}", emphasised("36", text)));
}

/// Writes a label and the text beside it, broken between words where it is too long.
pub(crate) fn pair(label: &str, text: &str) {
    let mut label = label;
    for part in broken(text, COLUMNS - LABEL_COLUMNS - 2) {
        line(&format!("  {label:LABEL_COLUMNS$}{part}"));
        label = "";
    }
}

/// Writes a paragraph, indented, broken between words.
pub(crate) fn paragraph(text: &str) {
    for part in broken(text, COLUMNS - 2) {
        line(&format!("  {part}"));
    }
}

/// A duration as a person reads it.
pub(crate) fn took(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// The beginning of something long, and how long it is.
pub(crate) fn shortened(text: &str, shown: usize) -> String {
    match text.char_indices().nth(shown) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}

fn emphasised(code: &str, text: &str) -> String {
    if io::stdout().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Lines of at most `columns` characters; a word that is longer has a line of its own.
fn broken(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines
            .last_mut()
            .expect("the list starts with one line and only grows");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= columns {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words_and_long_words_stay_whole() {
        assert_eq!(broken("one two three", 7), ["one two", "three"]);
        assert_eq!(
            broken("a incomprehensibilities b", 5),
            ["a", "incomprehensibilities", "b"]
        );
        assert_eq!(broken("", 5), [""]);
    }

    #[test]
    fn what_is_shortened_says_how_long_it_was() {
        assert_eq!(shortened("abcdef", 3), "abc… (6 characters)");
        assert_eq!(shortened("abc", 3), "abc");
    }
}
