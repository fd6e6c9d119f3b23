//! The class of a token on a route whose hook prices each request. It is the class that the hook
//! named, or else the grant that the hook gave, because a price alone does not tell a thousand
//! requests from one.
//!
//! The token holds it in the caveat `<service>_class`. The value is a word for a named class, or
//! `.requests:2,valid_secs:60` for a grant. It is `.fallback:86400` for a sale while the hook was
//! unavailable, when the class was not known. A word has no dot, so the three differ.

use std::fmt;

/// The beginning of the caveat's value for a sale while the hook was unavailable.
const FALLBACK: &str = ".fallback:";

/// The longest word, in bytes. Each token contains its word.
const WORD_BYTES_MAX: usize = 32;

/// The class of a token, or of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoldAs {
    /// The class that the hook named.
    Class(Word),
    /// The grant that the hook gave without naming a class.
    Grant(Said),
    /// A sale while the hook was unavailable, with the route's own grant. The number is the
    /// validity of that grant in seconds.
    Fallback(u64),
    /// Two different classes in one token, which opens nothing.
    Nothing,
}

/// The name of a class: 1 to 32 of a-z, 0-9, - and _.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The name, padded with zeros.
    bytes: [u8; WORD_BYTES_MAX],
}

/// The grant that a hook gave. For a limit that is `None`, the route's own limit applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The number of requests.
    pub requests: Option<u64>,
    /// The validity in seconds.
    pub valid_secs: Option<u64>,
    /// The number of response bytes.
    pub bytes: Option<u64>,
    /// The number of seconds of work.
    pub seconds: Option<u64>,
}

/// The text is not a class that a token can be sold as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a class is 1 to {WORD_BYTES_MAX} of a-z, 0-9, - and _")]
pub struct NotSoldAs;

impl SoldAs {
    /// Parses the value of the caveat.
    pub fn parse(value: &str) -> Result<Self, NotSoldAs> {
        if let Some(secs) = value.strip_prefix(FALLBACK) {
            return number(secs).map(Self::Fallback);
        }
        match value.strip_prefix('.') {
            Some(said) => Said::parse(said).map(Self::Grant),
            None => Word::new(value).map(Self::Class),
        }
    }

    /// Whether a token sold as this class opens requests of the class `wanted`. `usual` is the
    /// route's own grant. The classes must be equal, or the held grant must not exceed the wanted
    /// one. A token sold while the hook was unavailable opens every class: the caller limits it to
    /// the grant that the request would buy.
    pub fn opens(&self, wanted: &Self, usual: &Said) -> bool {
        match (self, wanted) {
            (Self::Class(held), Self::Class(wanted)) => held == wanted,
            (Self::Grant(held), Self::Grant(wanted)) => held.is_within(wanted, usual),
            (Self::Fallback(_), wanted) => *wanted != Self::Nothing,
            (Self::Class(_) | Self::Grant(_) | Self::Nothing, _) => false,
        }
    }

    /// The combination of two classes in one token, which is `Nothing` unless they are equal.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Nothing }
    }
}

impl fmt::Display for SoldAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(word) => word.fmt(f),
            Self::Grant(said) => {
                let parts = said.limits().into_iter();
                let parts: Vec<String> = parts
                    .filter_map(|(name, limit)| Some(format!("{name}:{}", limit?)))
                    .collect();
                write!(f, ".{}", parts.join(","))
            }
            Self::Fallback(secs) => write!(f, "{FALLBACK}{secs}"),
            Self::Nothing => Ok(()),
        }
    }
}

impl Word {
    /// Builds a word from this text.
    pub fn new(text: &str) -> Result<Self, NotSoldAs> {
        let is_allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        };
        if text.is_empty() || !text.bytes().all(is_allowed) {
            return Err(NotSoldAs);
        }
        let mut bytes = [0; WORD_BYTES_MAX];
        let room = bytes.get_mut(..text.len()).ok_or(NotSoldAs)?;
        room.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.bytes.iter().take_while(|byte| **byte != 0);
        word.copied()
            .try_for_each(|byte| write!(f, "{}", char::from(byte)))
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Said {
    fn limits(&self) -> [(&'static str, Option<u64>); 4] {
        [
            ("requests", self.requests),
            ("valid_secs", self.valid_secs),
            ("bytes", self.bytes),
            ("seconds", self.seconds),
        ]
    }

    fn parse(text: &str) -> Result<Self, NotSoldAs> {
        let mut said = Self::default();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (name, digits) = part.split_once(':').ok_or(NotSoldAs)?;
            let limit = match name {
                "requests" => &mut said.requests,
                "valid_secs" => &mut said.valid_secs,
                "bytes" => &mut said.bytes,
                "seconds" => &mut said.seconds,
                _ => return Err(NotSoldAs),
            };
            if limit.replace(number(digits)?).is_some() {
                return Err(NotSoldAs);
            }
        }
        Ok(said)
    }

    /// Whether no limit of this grant exceeds the limit in `other`, or the one in `usual` where
    /// `other` has none. If this grant left a limit to the route, it is not within a known limit of
    /// `other`, because the route's limit at the time of the sale is unknown.
    fn is_within(&self, other: &Self, usual: &Self) -> bool {
        let others = other.limits().into_iter().zip(usual.limits());
        self.limits()
            .into_iter()
            .zip(others)
            .all(
                |((_, held), ((_, wanted), (_, usual)))| match (held, wanted) {
                    (None, None) => true,
                    (None, Some(_)) => false,
                    (Some(held), wanted) => held <= wanted.or(usual).unwrap_or(u64::MAX),
                },
            )
    }
}

/// Parses digits only: `u64::from_str` would also accept a plus sign.
fn number(digits: &str) -> Result<u64, NotSoldAs> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotSoldAs);
    }
    digits.parse().map_err(|_| NotSoldAs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> SoldAs {
        SoldAs::parse(value).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in [
            "a",
            "bulk-2_b",
            &"x".repeat(32),
            ".",
            ".requests:2",
            ".requests:2,valid_secs:60,bytes:18446744073709551615,seconds:1",
            ".fallback:86400",
        ] {
            assert_eq!(parsed(value).to_string(), value);
        }
        for bad in [
            "",
            "Bulk",
            "bulk,single",
            "a b",
            "ä",
            "a.b",
            &"x".repeat(33),
            ".requests",
            ".requests:",
            ".requests:+1",
            ".requests:-1",
            ".requests:1,",
            ".requests:1,requests:2",
            ".valid:1",
            ".requests:18446744073709551616",
            ".fallback",
            ".fallback:",
            ".fallback:+1",
            ".fallback:1,requests:1",
            ".requests:1,fallback:1",
        ] {
            assert_eq!(SoldAs::parse(bad), Err(NotSoldAs), "{bad}");
        }
    }

    #[test]
    fn a_class_opens_itself_and_a_grant_what_sells_no_less() {
        let usual = Said {
            requests: Some(10),
            valid_secs: Some(86_400),
            ..Said::default()
        };
        for (held, wanted, opens) in [
            ("bulk", "bulk", true),
            ("bulk", "single", false),
            ("bulk", ".", false),
            (".", "bulk", false),
            (".", ".", true),
            (".requests:5", ".requests:5", true),
            (".requests:1000", ".requests:1", false),
            (".requests:1", ".requests:1000", true),
            (".requests:10", ".", true),
            (".requests:11", ".", false),
            (".", ".requests:10", false),
            (".valid_secs:86400", ".", true),
            (".valid_secs:86401", ".", false),
            (".bytes:18446744073709551615", ".", true),
            (".bytes:5", ".bytes:4", false),
            (".requests:1,bytes:5", ".requests:1", true),
            (".requests:1", ".requests:1,bytes:5", false),
            (".seconds:5", ".seconds:6", true),
            (".fallback:86400", "bulk", true),
            (".fallback:86400", ".requests:1", true),
            ("bulk", ".fallback:86400", false),
        ] {
            let is_open = parsed(held).opens(&parsed(wanted), &usual);
            assert_eq!(is_open, opens, "{held} {wanted}");
        }
        let both = parsed("bulk").and(parsed("single"));
        assert_eq!(both, SoldAs::Nothing);
        assert_eq!(parsed(".fallback:1").and(parsed("bulk")), both);
        for wanted in [both, parsed("bulk"), parsed("."), parsed(".fallback:1")] {
            assert!(!both.opens(&wanted, &usual));
        }
        assert_eq!(parsed("bulk").and(parsed("bulk")), parsed("bulk"));
    }
}
