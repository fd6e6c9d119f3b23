//! Waiting for a condition with a deadline. The only place of the harness that sleeps: a test that waited for a fixed
//! time would be slow on a fast machine and would fail on a slow one.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, timeout_at};

/// The pause after the first look: most conditions of a local network hold within a few milliseconds.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause between two looks, reached after about ten of them.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Looks again and again until `probe` answers `Ok(Some(value))`, or fails after `deadline`.
///
/// `Ok(None)` means *not yet*. `Err(seen)` means *not yet* too, and `seen` is what the failure will say was seen last.
/// A probe that knows that waiting is pointless answers `Ok(Some(Err(…)))`.
///
/// # Errors
/// When the deadline passed; the error names what was waited for and what was last seen.
pub async fn eventually<T, E, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> Result<T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_FIRST;
    let mut last_seen = String::from("nothing yet");
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(seen)) => last_seen = seen.to_string(),
            Err(_) => bail!(
                "waited {deadline:?} for {what}; last seen: {last_seen} (and the last look hung)"
            ),
        }
        if Instant::now() + pause >= end {
            bail!("waited {deadline:?} for {what}; last seen: {last_seen}");
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that pauses between two looks"
        )]
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_failure_says_what_was_waited_for_and_what_was_last_seen() {
        let failure = eventually("the moon", Duration::from_millis(30), || async {
            Err::<Option<()>, _>("a cloud")
        })
        .await
        .unwrap_err();
        let message = failure.to_string();
        assert!(message.contains("for the moon"), "{message}");
        assert!(message.contains("last seen: a cloud"), "{message}");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_cut_off_at_the_deadline() {
        let failure = eventually("an answer", Duration::from_millis(30), || {
            std::future::pending::<Result<Option<()>, String>>()
        })
        .await
        .unwrap_err();
        assert!(failure.to_string().contains("hung"));
    }

    #[tokio::test]
    async fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let value = eventually("three looks", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move { if seen == 3 { Ok(Some(seen)) } else { Err(seen) } }
        })
        .await
        .unwrap();
        assert_eq!(value, 3);
    }
}
