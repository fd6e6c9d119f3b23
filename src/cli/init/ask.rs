//! Questions of `tollhouse init`. A flag answers a question, or the person at the terminal does.

use std::io::{BufRead, Write};

use anyhow::{Context as _, Result, bail};

/// The number of wrong answers after which the program gives up.
const TRIES_MAX: usize = 10;

/// The means of asking.
pub(super) struct Ask<'a> {
    /// The terminal's input, if a person is there.
    pub(super) input: Option<&'a mut dyn BufRead>,
    /// The output for questions.
    pub(super) out: &'a mut dyn Write,
    /// Whether missing answers take their default.
    pub(super) takes_defaults: bool,
}

/// A question.
pub(super) struct Question<'a> {
    /// The flag that answers the question.
    pub(super) flag: &'a str,
    /// The value of the flag.
    pub(super) given: Option<&'a str>,
    /// The question, and what a person must know to answer it.
    pub(super) text: &'a str,
    /// The default answer.
    pub(super) default: Option<&'a str>,
    /// Checks an answer; the error says what is wrong.
    pub(super) check: &'a dyn Fn(&str) -> Result<(), String>,
}

impl Ask<'_> {
    /// Returns the answer. Without a terminal, a missing flag is an error that names the flag.
    pub(super) fn answer(&mut self, question: Question<'_>) -> Result<String> {
        let flag = question.flag;
        if let Some(given) = question.given {
            return match (question.check)(given) {
                Ok(()) => Ok(given.to_owned()),
                Err(why) => bail!("{flag}: {why}"),
            };
        }
        if self.takes_defaults
            && let Some(default) = question.default
        {
            return Ok(default.to_owned());
        }
        let Some(input) = self.input.as_deref_mut() else {
            let or = question.default.map_or_else(String::new, |default| {
                format!(", or --yes for what is usual (here: {default})")
            });
            bail!(
                "{flag} is missing, and there is no terminal to ask at: give it{or}\n{}",
                question.text
            );
        };
        let default = question.default;
        let hint = default.map_or_else(String::new, |default| format!(" [{default}]"));
        for _ in 0..TRIES_MAX {
            write!(self.out, "\n{}\n{flag}{hint}: ", question.text)
                .and_then(|()| self.out.flush())
                .context("failed to ask")?;
            let mut line = String::new();
            if input.read_line(&mut line).context("failed to read")? == 0 {
                bail!("{flag} is missing: the input has ended");
            }
            let said = match (line.trim(), default) {
                ("", Some(default)) => default,
                (said, _) => said,
            };
            match (question.check)(said) {
                Ok(()) if said.is_empty() => {
                    writeln!(self.out, "There is no usual answer to this: one is wanted.")
                        .context("failed to ask")?;
                }
                Ok(()) => return Ok(said.to_owned()),
                Err(why) => writeln!(self.out, "{why}").context("failed to ask")?,
            }
        }
        bail!("{flag}: no good answer in {TRIES_MAX} tries")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(
        given: Option<&str>,
        typed: Option<&str>,
        takes_defaults: bool,
    ) -> (Result<String>, String) {
        let mut typed = typed.map(|typed| typed.as_bytes());
        let mut out = Vec::new();
        let answer = Ask {
            input: typed.as_mut().map(|typed| typed as &mut dyn BufRead),
            out: &mut out,
            takes_defaults,
        }
        .answer(Question {
            flag: "--price",
            given,
            text: "The price?",
            default: Some("10 sat"),
            check: &|said| {
                if said.ends_with(" sat") {
                    Ok(())
                } else {
                    Err("not in sat".to_owned())
                }
            },
        });
        (answer, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_flag_is_taken_without_a_question_and_held_to_the_same_rules() {
        let (answer, asked) = price(Some("5 sat"), Some("7 sat\n"), false);
        assert_eq!((answer.unwrap().as_str(), asked.as_str()), ("5 sat", ""));
        let (answer, _) = price(Some("5"), Some("7 sat\n"), false);
        assert_eq!(answer.unwrap_err().to_string(), "--price: not in sat");
    }

    #[test]
    fn without_a_terminal_a_missing_flag_is_named() {
        let error = price(None, None, false).0.unwrap_err().to_string();
        assert!(
            error.contains("--price is missing") && error.contains("--yes"),
            "{error}"
        );
        assert_eq!(price(None, None, true).0.unwrap(), "10 sat");
    }

    #[test]
    fn nothing_said_where_nothing_is_usual_is_told_what_there_is() {
        let mut out = Vec::new();
        let (mut first, mut second) = ("\nmutinynet\n".as_bytes(), "\nanything\n".as_bytes());
        let mut asked = |input: &mut &[u8], check: &dyn Fn(&str) -> Result<(), String>| {
            let mut ask = Ask {
                input: Some(input),
                out: &mut out,
                takes_defaults: false,
            };
            ask.answer(Question {
                flag: "--network",
                given: None,
                text: "Which network?",
                default: None,
                check,
            })
        };
        let listed = |name: &str| match name {
            "mutinynet" => Ok(()),
            _ => Err("there are mutinynet".to_owned()),
        };
        assert_eq!(asked(&mut first, &listed).unwrap(), "mutinynet");
        assert_eq!(asked(&mut second, &|_| Ok(())).unwrap(), "anything");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("there are mutinynet"), "{out}");
        assert!(out.contains("one is wanted"), "{out}");
    }

    #[test]
    fn a_person_is_asked_until_the_answer_holds() {
        let (answer, asked) = price(None, Some("cheap\n21 sat\n"), false);
        assert_eq!(answer.unwrap(), "21 sat");
        assert!(
            asked.contains("not in sat") && asked.contains("[10 sat]"),
            "{asked}"
        );
        assert_eq!(price(None, Some("\n"), false).0.unwrap(), "10 sat");
        assert!(
            price(None, Some("cheap\n"), false).0.is_err(),
            "the input ends"
        );
        assert!(
            price(None, Some("cheap\n".repeat(20).as_str()), false)
                .0
                .is_err()
        );
    }
}
