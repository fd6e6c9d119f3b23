//! Free loopback ports for programs that must be told their port.
//!
//! They lie below the range from which the system takes ports for outgoing connections: a listener of the harness may
//! stop and start again on its port, and meanwhile no client's own connection may take it (a client that keeps asking
//! a closed port of that range can even connect to itself).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};

/// Above the registered services that a developer's machine runs, below Linux's and the IANA's ephemeral ports.
const RANGE: Range<u16> = 15_000..32_000;
/// Tries before giving up; with half the range taken, a thousand tries all fail once in 2^1000.
const TRIES_MAX: u64 = 1_000;

/// What this process handed out already. A std mutex: held for a hash lookup, never across an await.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A loopback address that was free a moment ago and that this process hands out only once.
///
/// # Errors
/// When no port of the range is free.
pub fn free() -> Result<SocketAddr> {
    let random = RandomState::new();
    for attempt in 0..TRIES_MAX {
        let offset = random.hash_one(attempt) % u64::from(RANGE.end - RANGE.start);
        let port = RANGE.start
            + u16::try_from(offset).expect("the offset is below the length of a range of u16");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok()
            && GIVEN
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(port)
        {
            return Ok(address);
        }
    }
    bail!("no free port among {RANGE:?} in {TRIES_MAX} tries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice() {
        let ports: Vec<_> = (0..200).map(|_| free().unwrap().port()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }
}
