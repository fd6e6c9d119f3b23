//! Phrases that no comment and no document may hold. A fresh reader has to read them twice.

use super::Source;

const PHRASES: &[&str] = &[
    "anew",
    "be it",
    "for ever",
    "in the place of",
    "let go",
    "nobody",
    "there are none",
    "there is none",
    "to be had",
    "whoever",
];

/// The phrases in the comments of a source file.
pub(super) fn in_comments(source: &Source) -> Vec<String> {
    let comments = (1..).zip(source.text.lines());
    let comments = comments.filter_map(|(number, line)| {
        let comment = line.trim_start().strip_prefix("//")?;
        Some((number, comment))
    });
    comments
        .flat_map(|(number, comment)| {
            let found = phrases(comment);
            found.map(move |phrase| source.complaint(number, &format!("`{phrase}`")))
        })
        .collect()
}

/// The phrases in a document or a settings file.
pub(super) fn in_text(source: &Source) -> Vec<String> {
    let lines = (1..).zip(source.text.lines());
    lines
        .flat_map(|(number, line)| {
            phrases(line).map(move |phrase| source.complaint(number, &format!("`{phrase}`")))
        })
        .collect()
}

fn phrases(text: &str) -> impl Iterator<Item = &'static str> {
    let text = text.to_lowercase();
    let words = |phrase: &str| {
        text.match_indices(phrase).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + phrase.len()..].chars().next();
            let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            is_end(before) && is_end(after)
        })
    };
    PHRASES
        .iter()
        .copied()
        .filter(move |phrase| words(phrase))
        .collect::<Vec<_>>()
        .into_iter()
}
