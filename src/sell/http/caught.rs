//! Catches panics, so that a panic ends only the request that caused it.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// The future panicked. The panic hook has already printed the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs a future until it completes or panics. A panic drops what the future holds before this
/// returns.
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(Some(future));
    poll_fn(|cx| {
        // A future that panicked is not polled again, so its broken state is never seen. Locks that
        // it held are poisoned.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let running = future.as_mut().as_pin_mut();
            running.map_or(Poll::Pending, |future| future.poll(cx))
        }));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => {
                future.set(None);
                Poll::Ready(Err(Panicked))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let late = async {
            tokio::task::yield_now().await;
            panic!("in the middle");
        };
        assert_eq!(caught(late).await, Err::<(), _>(Panicked));
    }
}
