//! Panics on the node's threads. When a task of ldk-node panics, nothing restarts it: the program
//! would keep running, and selling, without it.

use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tokio::sync::watch;

use super::threads::NAME;

/// The first words of the panic of ldk-node's listener, and a part of its location: ldk-node
/// unwraps the result of `accept()`. This panic is not reported here, because the door finds out by
/// itself that the listener is dead.
const LISTENER: (&str, &str) = (
    "called `Result::unwrap()` on an `Err` value: Os {",
    "ldk-node",
);

/// The last panic of the node's threads.
static SEEN: OnceLock<watch::Sender<Option<String>>> = OnceLock::new();

/// Subscribes to panics on the node's threads from now on. Panics are printed as before.
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

/// The message and the location of a panic. Returns `None` for the panic of the listener, which the
/// door handles.
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
        // A later subscriber receives only later panics.
        assert!(!listen().has_changed().unwrap());
    }
}
