//! A panic while a request is answered ends that request only.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// The task has panicked. What the panic said was printed when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs it to its end, or to its panic. What it holds is dropped with the panic, before this returns.
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(Some(future));
    poll_fn(|cx| {
        // A future that has panicked is not polled again, so nobody sees what it left half done. Locks know it by themselves.
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
    async fn a_panic_is_an_answer() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let late = async {
            tokio::task::yield_now().await;
            panic!("in the middle");
        };
        assert_eq!(caught(late).await, Err::<(), _>(Panicked));
    }
}
