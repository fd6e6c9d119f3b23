//! Rate limits: challenges are limited by the client's network, served requests by the token.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use crate::base::clock::Clock;
use crate::base::pace::{Bucket, Pace, Room};

/// The maximum number of networks with a bucket, over all shards: about 6 MB.
const NETWORKS_MAX: usize = 65_536;

/// The number of locks over the table. With sixteen, two cores rarely wait for each other.
const SHARDS: usize = 16;

/// The rate limits of clients; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The limit on challenges for one IPv4 address, or one IPv6 network of 56 bits.
    pub challenges: Option<Pace>,
    /// The limit on requests for one token.
    pub tokens: Option<Pace>,
}

/// Enforces the rate limits.
#[derive(Debug)]
pub struct Limiter {
    /// The limits, which can change at any time.
    limits: RwLock<Limits>,
    /// The buckets by network. `std` mutexes: held for a look-up.
    shards: [Mutex<Shard>; SHARDS],
    /// Assigns networks to shards in a way that clients cannot predict.
    spread: RandomState,
    /// The time source.
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<IpAddr, Bucket>,
    /// The bucket that all new networks share while the table is full.
    crowd: Bucket,
    /// When full buckets were last removed, in microseconds since the machine started.
    swept_us: u64,
}

impl Limiter {
    /// Creates a limiter with these limits.
    pub fn new(limits: Limits, clock: Clock) -> Self {
        Self {
            limits: RwLock::new(limits),
            shards: std::array::from_fn(|_| Mutex::default()),
            spread: RandomState::new(),
            clock,
        }
    }

    /// Replaces the limits.
    pub fn set(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rate limit for one token.
    pub(super) fn of_tokens(&self) -> Option<Pace> {
        self.limits().tokens
    }

    /// Counts one challenge for this client, or returns how long the client must wait. All clients
    /// without a known address count as one.
    pub(super) fn take_challenge(&self, client: Option<IpAddr>) -> Result<(), Room> {
        let Some(pace) = self.limits().challenges else {
            return Ok(());
        };
        // Not the wall clock: if it were set back, every client would be refused until it caught
        // up.
        let now_us = self.clock.since_boot_ms().saturating_mul(1_000);
        let network = of(client);
        pace.take(self.shard(network).bucket(network, now_us), now_us)?;
        Ok(())
    }

    /// Takes back the count of the client's last challenge, because no challenge was made and the
    /// client was not at fault.
    pub(super) fn give_back_challenge(&self, client: Option<IpAddr>) {
        if self.limits().challenges.is_none() {
            return;
        }
        let network = of(client);
        let mut shard = self.shard(network);
        if let Some(bucket) = shard.buckets.get_mut(&network) {
            bucket.give_back();
        } else {
            shard.crowd.give_back();
        }
    }

    fn shard(&self, network: IpAddr) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.spread.hash_one(network) % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network that a client is counted under. All clients without a known address count as one.
fn of(client: Option<IpAddr>) -> IpAddr {
    network(client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

impl Shard {
    /// Returns the bucket of this network. While the table is full, all new networks share one
    /// bucket. So a flood of addresses neither removes the buckets of clients over their limit nor
    /// fills the memory.
    fn bucket(&mut self, network: IpAddr, now_us: u64) -> &mut Bucket {
        let max = NETWORKS_MAX / SHARDS;
        let is_new = !self.buckets.contains_key(&network);
        // At most once a second, because a scan of all buckets for each new network would help a
        // flood.
        if is_new && self.buckets.len() >= max && now_us.saturating_sub(self.swept_us) >= 1_000_000
        {
            self.swept_us = now_us;
            self.buckets
                .retain(|_, bucket| bucket.full_at_us() > now_us);
        }
        if is_new && self.buckets.len() >= max {
            return &mut self.crowd;
        }
        self.buckets.entry(network).or_default()
    }
}

/// The network that a client is counted under: an IPv4 address, or an IPv6 network of 56 bits.
/// Providers give each customer at least such a network, so one customer has all of its addresses.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            std::net::Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 72)).into()
        }
    }
}

/// The wider network that counts as one client for free quotas and bundles: a /24 or a /48. Having
/// many of its addresses brings a client no extra quota or bundle.
pub(super) fn wide_network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => {
            std::net::Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limiter() -> (Limiter, Clock) {
        let clock = Clock::fixed(1_000);
        let pace = Pace {
            requests: 2,
            per: Duration::from_secs(10),
        };
        let limits = Limits {
            challenges: Some(pace),
            tokens: None,
        };
        (Limiter::new(limits, clock.clone()), clock)
    }

    #[test]
    fn a_network_is_held_to_its_pace_and_another_is_not_in_its_way() {
        let (limiter, clock) = limiter();
        let take = |client: &str| limiter.take_challenge(client.parse().ok());
        assert!(take("192.0.2.1").is_ok());
        assert!(take("::ffff:192.0.2.1").is_ok());
        assert_eq!(take("192.0.2.1").unwrap_err().reset_secs, 5);
        assert!(take("192.0.2.2").is_ok());
        assert!(take("2001:db8::1").is_ok());
        assert!(take("2001:db8::ffff:2").is_ok());
        assert!(take("2001:db8::3").is_err());
        clock.advance(Duration::from_secs(5));
        assert!(take("192.0.2.1").is_ok());
        limiter.set(Limits::default());
        assert!(take("192.0.2.1").is_ok());
    }

    #[test]
    fn setting_the_clock_neither_refuses_a_client_nor_gives_it_more() {
        let (limiter, clock) = limiter();
        let take = || limiter.take_challenge("192.0.2.1".parse().ok());
        assert!(take().is_ok() && take().is_ok());
        for unix_secs in [1, 1_000_000, 500] {
            clock.set(unix_secs);
            assert_eq!(take().unwrap_err().reset_secs, 5);
        }
        clock.advance(Duration::from_secs(5));
        assert!(take().is_ok() && take().is_err());
        limiter.give_back_challenge("192.0.2.1".parse().ok());
        assert!(take().is_ok() && take().is_err());
    }

    #[test]
    fn changed_limits_apply_at_once_and_return_nothing_twice() {
        let (limiter, _) = limiter();
        let count = || {
            let client = "192.0.2.1".parse().ok();
            let takes = (0..9).take_while(|_| limiter.take_challenge(client).is_ok());
            takes.count()
        };
        let set = |requests: u64| {
            let pace = (requests > 0).then_some(Pace {
                requests,
                per: Duration::from_secs(10),
            });
            limiter.set(Limits {
                challenges: pace,
                tokens: None,
            });
        };
        assert_eq!(count(), 2);
        for (requests, more) in [(1, 0), (2, 0), (5, 3), (2, 0), (5, 0), (0, 9), (5, 0)] {
            set(requests);
            assert_eq!(count(), more, "{requests}");
        }
    }

    #[test]
    fn a_flood_of_networks_fills_no_memory_and_frees_nobody() {
        let (limiter, _) = limiter();
        let take = |bits: u32| limiter.take_challenge(Some(IpAddr::V4(bits.into())));
        assert!(take(1).is_ok() && take(1).is_ok() && take(1).is_err());
        let passed = (2..200_000).filter(|bits| take(*bits).is_ok()).count();
        assert!(passed <= NETWORKS_MAX + 2 * SHARDS, "{passed}");
        assert!(take(1).is_err());
    }
}
