//! Logs expiring certificates twice a day, from two weeks before they expire.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::sell::http::{Term, TlsSource};

/// Time between two checks of the certificates.
const LOOK_EVERY: Duration = Duration::from_secs(12 * 60 * 60);

/// The certificates of both listeners, each with the settings key that names it.
pub(super) type Certificates = Vec<(&'static str, TlsSource)>;

/// Checks the certificates until the program stops.
pub(super) async fn watch(certificates: Certificates, clock: Clock, stop: CancellationToken) {
    if certificates.is_empty() {
        return;
    }
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let (looked, now_secs) = (certificates.clone(), clock.unix_secs());
        tokio::task::spawn_blocking(move || tell(&looked, now_secs))
            .await
            .expect("looking at files does not panic");
    }
}

fn tell(certificates: &Certificates, now_secs: u64) {
    for (key, source) in certificates {
        let Some(certificate) = source.certificate() else {
            continue;
        };
        let Some(complaint) = certificate.complaint(now_secs) else {
            continue;
        };
        match certificate.term(now_secs) {
            Term::Good => {}
            Term::EndsSoon => tracing::warn!("{key}: {complaint}"),
            Term::Ended | Term::NotYet => tracing::error!("{key}: {complaint}"),
        }
    }
}
