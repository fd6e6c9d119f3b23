use super::*;

const FREE: Free = Free {
    requests: 2,
    per: Duration::from_secs(60),
};

/// Returns a moment with the same time on both clocks.
fn at(ms: u64) -> Moment {
    Moment {
        unix_ms: ms,
        since_boot_ms: ms,
    }
}

fn had(quotas: &Arc<Quotas>, client: &str, now_ms: u64) -> Option<u64> {
    let used = quotas.reserve("api", client.parse().unwrap(), FREE, at(now_ms));
    used.map(|used| used.left())
}

#[test]
fn a_network_has_its_quota_once_a_window() {
    let quotas = Arc::new(Quotas::new(10, [], at(0)));
    assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
    assert_eq!(had(&quotas, "::ffff:192.0.2.9", 0), Some(0));
    assert_eq!(had(&quotas, "192.0.2.200", 59_999), None);
    assert_eq!(had(&quotas, "192.0.3.1", 0), Some(1));
    assert_eq!(had(&quotas, "192.0.2.1", 60_000), Some(1));
    assert_eq!(had(&quotas, "2001:db8:1::1", 0), Some(1));
    assert_eq!(had(&quotas, "2001:db8:1:ffff::1", 0), Some(0));
    assert_eq!(had(&quotas, "2001:db8:1::2", 0), None);
    assert_eq!(had(&quotas, "2001:db8:2::1", 0), Some(1));
    let client = "192.0.2.1".parse().unwrap();
    assert!(quotas.reserve("other", client, FREE, at(0)).is_some());
}

#[test]
fn a_flood_of_addresses_renews_nobodys_quota() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    for client in ["192.0.2.1", "192.0.2.1", "192.0.3.1", "192.0.4.1"] {
        assert!(had(&quotas, client, 0).is_some());
    }
    for number in 0..200 {
        assert_eq!(had(&quotas, &format!("198.51.{number}.1"), 1), None);
    }
    assert_eq!(had(&quotas, "192.0.2.1", 2), None);
    assert_eq!(had(&quotas, "192.0.3.1", 2), Some(0));
    assert!(quotas.write_behind(at(3)).was_full);
    // The windows end, and the table has room again.
    assert_eq!(quotas.write_behind(at(60_001)).remove.len(), 3);
    assert_eq!(had(&quotas, "198.51.100.1", 60_001), Some(1));
}

#[test]
fn what_was_not_delivered_is_given_back_to_its_own_window() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    let client = "192.0.2.1".parse().unwrap();
    let reserve = |now_ms| quotas.reserve("api", client, FREE, at(now_ms));
    let old = reserve(0).unwrap();
    reserve(0).unwrap().give_back();
    assert_eq!(reserve(0).unwrap().left(), 0);
    assert_eq!(reserve(60_000).unwrap().left(), 1);
    old.give_back();
    assert_eq!(reserve(60_000).unwrap().left(), 0);
}

#[test]
fn a_returned_use_finds_its_window_after_the_clock_is_set() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    let client = "192.0.2.1".parse().unwrap();
    let moment = |unix_ms, since_boot_ms| Moment {
        unix_ms,
        since_boot_ms,
    };
    let reserve = |now| quotas.reserve("api", client, FREE, now);
    // The clock is set while the request runs. The window stays the same, with another end.
    let running = reserve(at(0)).unwrap();
    assert_eq!(reserve(moment(9_000_000, 10)).unwrap().left(), 0);
    assert_eq!(running.give_back(), 1);
    // This window is a new one with the same end.
    let old = reserve(moment(9_000_000, 20)).unwrap();
    let next = reserve(moment(8_999_990, 60_001)).unwrap();
    assert_eq!((old.until_ms, next.left()), (next.until_ms, 1));
    old.give_back();
    assert_eq!(reserve(moment(8_999_990, 60_002)).unwrap().left(), 0);
}

#[test]
fn a_short_window_renews_no_long_one() {
    let quotas = Arc::new(Quotas::new(9, [], at(0)));
    let client = "192.0.2.1".parse().unwrap();
    let short = Free {
        requests: 100,
        per: Duration::from_secs(1),
    };
    for now_ms in [0, 5_000, 10_000] {
        assert!(quotas.reserve("api", client, short, at(now_ms)).is_some());
    }
    assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
    assert_eq!(had(&quotas, "192.0.2.1", 20_000), Some(0));
    assert!(quotas.reserve("api", client, short, at(30_000)).is_some());
    assert_eq!(had(&quotas, "192.0.2.1", 30_000), None);
}

#[test]
fn fifty_at_once_on_two_get_two() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    let got: usize = std::thread::scope(|scope| {
        let ask = || usize::from(had(&quotas, "192.0.2.1", 0).is_some());
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(got, 2);
}

#[test]
fn a_use_dropped_by_a_panic_is_returned() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    let client = "192.0.2.1".parse().unwrap();
    for returns in [false, true] {
        let used = quotas.reserve("api", client, FREE, at(0)).unwrap();
        let panicking = std::thread::spawn(move || {
            if returns {
                used.give_back();
                panic!("behind it");
            }
            let _used = used;
            panic!("with it");
        });
        assert!(panicking.join().is_err());
    }
    assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
}

#[test]
fn what_is_written_is_what_is_read_back() {
    let quotas = Arc::new(Quotas::new(3, [], at(0)));
    assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
    let put = quotas.write_behind(at(1)).put;
    assert_eq!(put.len(), 1);
    assert!(quotas.write_behind(at(1)).put.is_empty());
    let stored = put
        .into_iter()
        .map(|(key, had)| (key.try_into().unwrap(), had));
    let quotas = Arc::new(Quotas::new(3, stored, at(0)));
    assert_eq!(had(&quotas, "192.0.2.1", 2), Some(0));
    assert_eq!(had(&quotas, "192.0.2.1", 2), None);
}

#[test]
fn setting_the_clock_refuses_nobody_for_longer_than_a_period_and_renews_nothing() {
    let quotas = Arc::new(Quotas::new(9, [], at(0)));
    let moment = |unix_ms, since_boot_ms| Moment {
        unix_ms,
        since_boot_ms,
    };
    let had = |quotas: &Arc<Quotas>, now: Moment| {
        let client = "192.0.2.1".parse().unwrap();
        let used = quotas.reserve("api", client, FREE, now);
        used.map(|used| used.left())
    };
    let hour_ms = 3_600_000;
    // The clock is set an hour ahead while the windows are in memory, and back again.
    assert_eq!(had(&quotas, moment(hour_ms, 10)), Some(1));
    assert_eq!(had(&quotas, moment(0, 20)), Some(0));
    assert_eq!(had(&quotas, moment(9 * hour_ms, 59_999)), None);
    let stored: Vec<_> = {
        let put = quotas.write_behind(moment(9 * hour_ms, 60_000)).put;
        let record = |(key, had): Entry<QuotaRecord>| (key.try_into().unwrap(), had);
        put.into_iter().map(record).collect()
    };
    assert_eq!(stored[0].1.until_ms, 9 * hour_ms + 11);
    assert_eq!(had(&quotas, moment(0, 60_010)), Some(1));
    // After a restart with a wrong clock, the client waits at most one period.
    let again = || Arc::new(Quotas::new(9, stored.clone(), moment(1_000, 500)));
    let quotas = again();
    assert_eq!(had(&quotas, moment(2_000, 1_500)), None);
    assert_eq!(had(&quotas, moment(61_999, 61_499)), None);
    assert_eq!(had(&quotas, moment(62_000, 61_500)), Some(1));
    // Once the clock is right again, windows that were read with the wrong clock end at the right
    // time.
    let quotas = again();
    assert!(quotas.write_behind(moment(2_000, 1_500)).remove.is_empty());
    let behind = quotas.write_behind(moment(10 * hour_ms, 2_000));
    assert_eq!(behind.remove.len(), 1);
}

#[test]
fn changed_settings_renew_no_window() {
    let quotas = Arc::new(Quotas::new(9, [], at(0)));
    let client = "192.0.2.1".parse().unwrap();
    let count = |requests| {
        let free = Free { requests, ..FREE };
        let uses = (0..9).map_while(|_| quotas.reserve("api", client, free, at(1)));
        uses.count()
    };
    assert_eq!([2, 1, 2, 5, 2, 5].map(count), [2, 0, 0, 3, 0, 0]);
}
