//! Panics on the node's threads. A task of ldk-node that panics is gone, and nobody looks after it: the program would go on
//! without it, and sell.

use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tokio::sync::watch;

use super::threads::NAME;

/// How a panic of the listener's begins, and where it is: ldk-node unwraps `accept()`. The door finds it dead by itself.
const LISTENER: (&str, &str) = (
    "called `Result::unwrap()` on an `Err` value: Os {",
    "ldk-node",
);

/// What the node's threads panicked with last.
static SEEN: OnceLock<watch::Sender<Option<String>>> = OnceLock::new();

/// Hears of panics on the node's threads from now on. They are printed as before.
pub(super) fn listen() -> watch::Receiver<Option<String>> {
    let seen = SEEN.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            if std::thread::current().name() == Some(NAME)
                && let (Some(seen), Some(what)) = (SEEN.get(), fatal(info))
            {
                seen.send_replace(Some(what));
            }
        }));
        watch::Sender::default()
    });
    let mut seen = seen.subscribe();
    seen.mark_unchanged();
    seen
}

/// What is told of a panic; `None` for one that is mended otherwise.
fn fatal(info: &PanicHookInfo<'_>) -> Option<String> {
    let said = info.payload_as_str().unwrap_or("without a word");
    let at = info
        .location()
        .map_or_else(String::new, ToString::to_string);
    let (begins, within) = LISTENER;
    let is_listener = said.starts_with(begins) && at.contains(within);
    (!is_listener).then(|| format!("{said} ({at})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic_on(name: &str, text: &'static str) {
        let thread = std::thread::Builder::new().name(name.to_owned());
        let panicking = thread.spawn(move || panic!("{text}")).unwrap();
        assert!(panicking.join().is_err());
    }

    #[test]
    fn a_panic_on_one_of_the_nodes_threads_is_heard_and_others_are_not() {
        let mut seen = listen();
        panic_on("other", "not the node's");
        assert!(!seen.has_changed().unwrap());
        panic_on(NAME, "a task is gone");
        let said = seen.borrow_and_update().clone().unwrap();
        assert!(said.contains("a task is gone"), "{said}");
        // Who listens later hears of what comes then.
        assert!(!listen().has_changed().unwrap());
    }
}
