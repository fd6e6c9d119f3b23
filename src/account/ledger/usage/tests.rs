//! Unit tests of the counts.

use std::time::Duration;

use crate::base::clock::Clock;

use super::*;

fn usage(requests: u64) -> Arc<Usage> {
    let token = TokenRecord {
        payment_hash: [1; 32],
        token_id: [2; 32],
        service: "chain".into(),
        issued_ms: None,
        first_used_ms: 0,
        last_used_ms: 0,
        requests,
        valid_until_secs: None,
        bytes: 0,
        metered_ms: 0,
    };
    Arc::new(Usage::new(token, Clock::fixed(0).moment()))
}

fn requests(max: u64) -> Allowance {
    Allowance {
        requests_max: Some(max),
        ..Allowance::default()
    }
}

fn reserve(usage: &Arc<Usage>, allowance: &Allowance, clock: &Clock) -> Option<Reservation> {
    Reservation::reserve(usage, allowance, Overrun::Serve, None, None, clock).ok()
}

#[test]
fn what_is_in_flight_counts_against_the_grant() {
    let clock = Clock::fixed(0);
    let usage = usage(3);
    let first = reserve(&usage, &requests(5), &clock).unwrap();
    let _second = reserve(&usage, &requests(5), &clock).unwrap();
    assert!(reserve(&usage, &requests(5), &clock).is_none());
    first.give_back();
    assert!(reserve(&usage, &requests(5), &clock).is_some());
}

#[test]
fn a_dropped_reservation_is_served_and_a_returned_one_is_not() {
    let clock = Clock::fixed(7);
    let usage = usage(0);
    drop(reserve(&usage, &Allowance::default(), &clock));
    reserve(&usage, &Allowance::default(), &clock)
        .unwrap()
        .give_back();
    let first = usage.take_unwritten(0, 7_000).unwrap();
    assert_eq!((first.token.requests, first.token.last_used_ms), (1, 7_000));
    assert!(first.is_for_journal && first.is_for_store);
    assert_eq!(usage.take_unwritten(0, 7_000), None);
}

#[test]
fn a_use_dropped_by_a_panic_is_returned_if_nothing_was_delivered() {
    let clock = Clock::fixed(7);
    let usage = usage(0);
    for (delivered, counted) in [(0, 0), (1, 1)] {
        let mut reserved = reserve(&usage, &requests(5), &clock).unwrap();
        let panicking = std::thread::spawn(move || {
            reserved.begin(None);
            reserved.deliver(delivered);
            panic!("in the middle of an answer");
        });
        assert!(panicking.join().is_err());
        let unwritten = usage.take_unwritten(0, 7_000);
        let requests = unwritten.map_or(0, |it| it.token.requests);
        assert_eq!(requests, counted);
    }
}

#[test]
fn requests_for_one_file_count_as_one_for_ten_minutes() {
    let clock = Clock::fixed(7);
    let usage = usage(0);
    let two = requests(2);
    let of_file =
        |file| Reservation::reserve(&usage, &two, Overrun::Serve, None, Some(file), &clock).ok();
    let counted = || begun(usage.counter.load(Ordering::Relaxed));
    let first = of_file(1).unwrap();
    let beside = of_file(1).unwrap();
    assert_eq!((counted(), beside.left().requests), (1, Some(1)));
    // The second request takes over the use that the first one held.
    first.give_back();
    assert_eq!(counted(), 1);
    drop(beside);
    for _ in 0..10 {
        drop(of_file(1).unwrap());
    }
    assert_eq!(counted(), 1);
    of_file(2).unwrap().give_back();
    drop(of_file(2).unwrap());
    assert!(of_file(3).is_none() && reserve(&usage, &two, &clock).is_none());
    clock.advance(Duration::from_secs(599));
    drop(of_file(1).unwrap());
    clock.advance(Duration::from_secs(1));
    assert!(of_file(1).is_none());
    assert_eq!(counted(), 2);
}

#[test]
fn requests_for_one_file_count_all_their_bytes() {
    let clock = Clock::fixed(7);
    let usage = usage(0);
    let allowance = Allowance {
        bytes_max: Some(100),
        ..requests(1)
    };
    for _ in 0..2 {
        let clock = &clock;
        let reserved = Reservation::reserve(&usage, &allowance, Overrun::Cut, None, Some(1), clock);
        let mut reserved = reserved.unwrap();
        assert!(reserved.begin(Some(50)));
        assert_eq!(reserved.deliver(50), 50);
    }
    let used_up = Reservation::reserve(&usage, &allowance, Overrun::Cut, None, Some(1), &clock);
    assert_eq!(used_up.unwrap_err(), Unreserved::UsedUp);
}

#[test]
fn the_journal_is_told_every_time_and_the_store_now_and_then() {
    let clock = Clock::fixed(7);
    let usage = usage(5);
    let told = |stored_before_ms, now_ms| {
        let unwritten = usage.take_unwritten(stored_before_ms, now_ms);
        unwritten.map(|it| (it.token.requests, it.is_for_journal, it.is_for_store))
    };
    assert_eq!(told(0, 1_000), None);
    drop(reserve(&usage, &Allowance::default(), &clock));
    assert_eq!(told(0, 2_000), Some((6, true, true)));
    drop(reserve(&usage, &Allowance::default(), &clock));
    assert_eq!(told(1_000, 3_000), Some((7, true, false)));
    assert_eq!(told(1_000, 4_000), None);
    assert!(usage.is_unstored());
    assert_eq!(told(2_000, 5_000), Some((7, false, true)));
    assert_eq!(told(u64::MAX, 6_000), None);
}

#[test]
fn fifty_at_once_on_ten_get_ten() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    let got: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| usize::from(reserve(&usage, &requests(10), &clock).is_some())))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(got, 10);
    assert_eq!(
        (usage.counter.load(Ordering::Acquire) >> IN_FLIGHT_BITS),
        10
    );
}

#[test]
fn bytes_and_seconds_are_limits_like_requests() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    let allowance = Allowance {
        bytes_max: Some(10),
        seconds_max: Some(2),
        ..Allowance::default()
    };
    let mut first = reserve(&usage, &allowance, &clock).unwrap();
    let left = (first.left().bytes, first.left().seconds);
    assert_eq!(left, (Some(10), Some(2)));
    assert_eq!(first.deliver(9), 9);
    // The request in flight may need more than what is left, so the next request waits for it.
    assert!(reserve(&usage, &allowance, &clock).is_none());
    first.report(Duration::from_micros(1_499_001));
    drop(first);
    let mut second = reserve(&usage, &allowance, &clock).unwrap();
    assert_eq!(second.left().bytes, Some(1));
    assert_eq!(second.deliver(9), 9, "what has begun is served");
    drop(second);
    assert!(reserve(&usage, &allowance, &clock).is_none());
    let seconds = Allowance {
        bytes_max: None,
        ..allowance
    };
    let mut third = reserve(&usage, &seconds, &clock).unwrap();
    assert_eq!(third.left().seconds, Some(1));
    third.report(Duration::from_millis(500));
    drop(third);
    assert!(reserve(&usage, &seconds, &clock).is_none());
    let written = usage.take_unwritten(0, 1).unwrap().token;
    assert_eq!((written.requests, written.bytes), (3, 18));
    assert!((2_000..2_500).contains(&written.metered_ms), "{written:?}");
}

#[test]
fn work_below_a_millisecond_is_work() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    for _ in 0..10 {
        let mut reservation = reserve(&usage, &Allowance::default(), &clock).unwrap();
        reservation.report(Duration::from_nanos(1));
    }
    assert_eq!(usage.take_unwritten(0, 1).unwrap().token.metered_ms, 10);
}

#[test]
fn an_answer_is_cut_at_the_end_of_its_tokens_time_where_the_route_says() {
    let clock = Clock::fixed(1_000);
    let usage = usage(0);
    let allowance = Allowance {
        valid_until_secs: Some(1_010),
        ..Allowance::default()
    };
    let reserve =
        |overrun| Reservation::reserve(&usage, &allowance, overrun, None, None, &clock).unwrap();
    let (mut cut, mut served) = (reserve(Overrun::Cut), reserve(Overrun::Serve));
    assert!(cut.is_timed() && cut.pass_time() && served.pass_time());
    clock.advance(Duration::from_secs(10));
    assert!(!cut.pass_time() && served.pass_time());
}

#[test]
fn where_it_is_cut_no_byte_goes_beyond_the_grant_however_many_at_once() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    let allowance = Allowance {
        bytes_max: Some(1_000),
        ..Allowance::default()
    };
    let reserve =
        || Reservation::reserve(&usage, &allowance, Overrun::Cut, None, None, &clock).unwrap();
    let mut reservations: Vec<_> = (0..8).map(|_| reserve()).collect();
    let delivered: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = reservations
            .iter_mut()
            .map(|reservation| scope.spawn(|| (0..50).map(|_| reservation.deliver(7)).sum::<u64>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(delivered, 1_000);
}

#[test]
fn time_is_counted_while_it_passes_and_cut_where_the_route_says() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    let allowance = Allowance {
        seconds_max: Some(3),
        ..Allowance::default()
    };
    let begin = Instant::now();
    let mut running =
        Reservation::reserve(&usage, &allowance, Overrun::Cut, None, None, &clock).unwrap();
    assert!(running.is_timed());
    assert!(running.pass_time_to(begin + Duration::from_millis(2_900)));
    let metered_ms = usage.take_unwritten(0, 1).unwrap().token.metered_ms;
    assert!((2_800..=2_900).contains(&metered_ms), "{metered_ms}");
    assert!(!running.pass_time_to(begin + Duration::from_millis(3_200)));
    assert!(Reservation::reserve(&usage, &allowance, Overrun::Cut, None, None, &clock).is_err());
    // An answer that is given back counts no seconds.
    let left = running.give_back();
    assert_eq!(left.seconds, Some(3));
    assert!(Reservation::reserve(&usage, &allowance, Overrun::Cut, None, None, &clock).is_ok());
}

#[test]
fn a_token_that_is_used_too_often_is_told_to_wait_and_loses_nothing() {
    let clock = Clock::fixed(1_000);
    let usage = usage(0);
    let pace = Some(Pace {
        requests: 1,
        per: Duration::from_secs(120),
    });
    let reserve = || Reservation::reserve(&usage, &requests(2), Overrun::Serve, pace, None, &clock);
    drop(reserve().unwrap());
    let Err(Unreserved::TooFast(room)) = reserve() else {
        panic!("not held to its pace");
    };
    assert_eq!(room.reset_secs, 120);
    clock.advance(Duration::from_secs(120));
    assert_eq!(reserve().unwrap().left().requests, Some(0));
}

#[test]
fn left_is_reported_as_the_next_request_finds_it() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    let allowance = Allowance {
        bytes_max: Some(1_000),
        ..requests(5)
    };
    let first = reserve(&usage, &allowance, &clock).unwrap();
    let mut second = reserve(&usage, &allowance, &clock).unwrap();
    assert!(second.begin(Some(700)));
    assert_eq!(
        (first.left().requests, second.left().requests),
        (Some(3), Some(3))
    );
    let left = first.give_back();
    assert_eq!((left.requests, left.bytes), (Some(4), Some(300)));
    // Five hundred of the held bytes were never delivered.
    assert_eq!(second.deliver(200), 200);
    drop(second);
    let third = reserve(&usage, &allowance, &clock).unwrap();
    assert_eq!(
        (third.left().requests, third.left().bytes),
        (Some(3), Some(800))
    );
}

#[test]
fn a_client_that_leaves_before_the_first_byte_gets_the_use_back_a_few_times() {
    let clock = Clock::fixed(0);
    let usage = usage(0);
    for _ in 0..LEFT_EARLY_MAX {
        reserve(&usage, &requests(1), &clock).unwrap().leave();
    }
    reserve(&usage, &requests(1), &clock).unwrap().leave();
    assert!(reserve(&usage, &requests(1), &clock).is_none());
}

#[test]
fn tokens_of_clients_that_left_are_remembered_within_a_limit() {
    let clock = Clock::fixed(0);
    let usages = Usages::default();
    let left_early = |number: u32| {
        let mut token_id = [0; 32];
        token_id[28..].copy_from_slice(&number.to_be_bytes());
        let usage = usages.find_or_keep(TokenId(token_id), Arc::into_inner(usage(0)).unwrap());
        reserve(&usage, &requests(1), &clock).unwrap().leave();
    };
    let known = || usages.shards.iter().map(|it| it.lock().unwrap().len());
    (0..100).for_each(left_early);
    clock.advance(Duration::from_secs(3_600));
    usages.forget_idle(clock.moment());
    assert_eq!(known().sum::<usize>(), 100);
    (0..70_000).for_each(left_early);
    clock.advance(Duration::from_secs(3_600));
    usages.forget_idle(clock.moment());
    assert_eq!(known().sum::<usize>(), LEFT_EARLY_TOKENS_MAX);
    clock.advance(Duration::from_secs(86_400));
    usages.forget_idle(clock.moment());
    assert_eq!(known().sum::<usize>(), 0);
}
