//! Text from strangers that people read: in a signed invoice, in a printed table, in the log.
//! Invisible characters, and characters that change how others are shown, can deceive the reader.

use std::borrow::Cow;

/// Invisible characters, and characters that change how others are shown. These are Unicode's
/// control characters (`Cc`), format characters (`Cf`, which include those that change the text's
/// direction), line and paragraph separators, and `Default_Ignorable_Code_Point` (which includes
/// tags and variation selectors). Noncharacters outside this list are recognized by their number.
const UNSEEN: &[(char, char)] = &[
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1345f}'),
    ('\u{16fe4}', '\u{16fe4}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// The selectors that show the symbol before them as an emoji or as plain text, as in `☕︎`.
const PRESENTATION: [char; 2] = ['\u{fe0e}', '\u{fe0f}'];

/// The reason why text must not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the character U+{code:04X} at position {position} is invisible, or changes how other characters are shown: leave it out",
    code = u32::from(*.character)
)]
pub struct Unseen {
    /// The first invisible or misleading character.
    pub character: char,
    /// Its position in characters, counted from 1.
    pub position: usize,
}

/// Refuses text with invisible or misleading characters. Text to be signed is not cleaned instead,
/// because cleaning would change what is signed.
pub fn readable(text: &str) -> Result<&str, Unseen> {
    match unseen(text).next() {
        None => Ok(text),
        Some((at, character)) => Err(Unseen {
            character,
            position: text[..at].chars().count() + 1,
        }),
    }
}

/// Returns the text on one line for people to read. Invisible characters are written as escapes, as
/// in `\n` and `\u{202e}`.
pub fn shown(text: &str) -> Cow<'_, str> {
    spelt(text, |character, shown| {
        shown.extend(character.escape_default());
    })
}

/// Escapes the invisible characters in a JSON text. The result means the same JSON.
pub fn shown_json(json: &str) -> Cow<'_, str> {
    spelt(json, |character, shown| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

fn spelt(text: &str, spell: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let mut rest = 0;
    let mut shown = String::new();
    for (at, character) in unseen(text) {
        shown.push_str(&text[rest..at]);
        spell(character, &mut shown);
        rest = at + character.len_utf8();
    }
    if rest == 0 {
        return Cow::Borrowed(text);
    }
    shown.push_str(&text[rest..]);
    Cow::Owned(shown)
}

/// Quotes at most `max` characters from the beginning of somebody's answer, for use in a sentence.
pub fn said(bytes: &[u8], max: usize) -> String {
    // A character has at most four bytes.
    let (start, rest) = bytes.split_at(bytes.len().min(max * 4));
    let text = String::from_utf8_lossy(start);
    let text = text.trim();
    if text.is_empty() {
        return "nothing".to_owned();
    }
    let end = text.char_indices().nth(max).map(|(at, _)| at);
    let mut shown = shown(&text[..end.unwrap_or(text.len())]).into_owned();
    if end.is_some() || !rest.is_empty() {
        shown.push('…');
    }
    shown
}

/// Each invisible character with its byte offset.
fn unseen(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut before = ' ';
    text.char_indices().filter(move |(_, character)| {
        let is_presentation =
            PRESENTATION.contains(character) && !before.is_alphabetic() && is_seen(before);
        before = *character;
        !is_seen(*character) && !is_presentation
    })
}

fn is_seen(character: char) -> bool {
    // A fast path for nearly all characters.
    if matches!(character, ' '..='~') {
        return true;
    }
    let is_noncharacter = u32::from(character) & 0xfffe == 0xfffe;
    let is_in = |(first, last): &(char, char)| (*first..=*last).contains(&character);
    !is_noncharacter && !UNSEEN.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write_is_readable() {
        for text in [
            "",
            "one coffee, 12 sat: thanks!",
            "ein Käffchen für Zoë",
            "コーヒー一杯",
            "قهوة",
            "кофе",
            "☕ ☕\u{fe0f} ❤\u{fe0f} 👍🏽 🇩🇪",
            "a\u{a0}b",
            "e\u{301}",
        ] {
            assert_eq!(readable(text), Ok(text));
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn what_is_not_seen_is_refused_and_told_and_replaced() {
        for character in [
            '\0',
            '\x07',
            '\x1b',
            '\x7f',
            '\u{80}',
            '\u{85}',
            '\u{9b}',
            '\u{9f}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202b}',
            '\u{202c}',
            '\u{202d}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2067}',
            '\u{2068}',
            '\u{2069}',
            '\u{206f}',
            '\u{3164}',
            '\u{115f}',
            '\u{180e}',
            '\u{feff}',
            '\u{fe0f}',
            '\u{fff9}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{fdd0}',
            '\u{1d173}',
            '\u{1fffe}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
            '\u{e01ef}',
            '\u{10ffff}',
        ] {
            let text = format!("äb{character}c");
            let error = readable(&text).unwrap_err();
            assert_eq!((error.character, error.position), (character, 3));
            let spelt = character.escape_default();
            assert_eq!(shown(&text), format!("äb{spelt}c"), "{error}");
            assert!(shown(&text).is_ascii() || !shown(&text).contains(character));
        }
        let error = readable("a\u{202e}").unwrap_err().to_string();
        assert!(error.contains("U+202E at position 2"), "{error}");
        assert_eq!(shown("a\tb\r\n\u{2028}"), "a\\tb\\r\\n\\u{2028}");
        assert!(readable("a\nb").is_err());
        // Several selectors after one sign could hide data, so only an emoji's first selector is
        // accepted.
        assert_eq!(shown("☕\u{fe0f}\u{fe0f}"), "☕\u{fe0f}\\u{fe0f}");
    }

    #[test]
    fn what_was_answered_is_cut_and_stays_on_its_line() {
        assert_eq!(said(b" \r\n", 9), "nothing");
        assert_eq!(said(b"ab\xffcd", 4), "ab\u{fffd}c…");
        assert_eq!(said(b"a\x1bb\n", 3), "a\\u{1b}b");
        assert_eq!(said(&[b'a'; 200], 200), "a".repeat(200));
        assert_eq!(said(&[b'a'; 201], 200), format!("{}…", "a".repeat(200)));
        let umlauts = said("ä".repeat(9_999).as_bytes(), 200);
        assert_eq!(umlauts, format!("{}…", "ä".repeat(200)));
    }

    #[test]
    fn what_is_shown_of_json_is_the_same_json() {
        for said in ["a\u{202e}b", "\u{e0041}", "\u{7f}\u{9b}", "\n\t\"\\", "ä→𝄞"] {
            let json = serde_json::to_string(said).unwrap();
            let shown = shown_json(&json);
            assert!(readable(&shown).is_ok(), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), said);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_readable(text in any::<String>()) {
            let shown = shown(&text);
            prop_assert!(readable(&shown).is_ok());
            prop_assert_eq!(readable(&text).is_ok(), shown == text.as_str());
        }
    }
}
