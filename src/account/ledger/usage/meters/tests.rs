use super::*;

const MEGABYTE: u64 = 1_000_000;
fn bytes() -> Allowance {
    Allowance {
        bytes_max: Some(MEGABYTE),
        ..Allowance::default()
    }
}

/// Starts this many requests at once.
fn at_once(meters: &mut Meters, count: usize) -> Vec<Claim> {
    (0..count).map(|_| meters.claim(0)).collect()
}

#[test]
fn one_answer_of_known_length_runs_beyond_or_is_cut_and_others_do_not_begin() {
    for (overrun, delivered) in [(Overrun::Serve, 1_400_000), (Overrun::Cut, MEGABYTE)] {
        let mut meters = Meters::default();
        let mut claims = at_once(&mut meters, 50);
        let mut begun = Vec::new();
        for mut claim in claims.drain(..) {
            if meters.begin(&mut claim, &bytes(), overrun, (Some(700_000), 0)) {
                begun.push(claim);
            } else {
                meters.give_back(&mut claim);
            }
        }
        assert_eq!(begun.len(), 2);
        for claim in &mut begun {
            while meters.deliver(claim, &bytes(), overrun, 70_000) == 70_000 && claim.held > 0 {}
            meters.end(claim);
        }
        assert_eq!((meters.bytes(), meters.bytes.held), (delivered, 0));
        assert!(!meters.has_room(&bytes(), overrun, 0));
    }
}

#[test]
fn one_answer_of_unknown_length_runs_beyond_and_the_others_end_with_the_grant() {
    let mut meters = Meters::default();
    let mut claims = at_once(&mut meters, 50);
    let begin = |claim| meters.begin(claim, &bytes(), Overrun::Serve, (None, 0));
    assert!(claims.iter_mut().all(begin));
    let mut got = vec![0; 50];
    for _ in 0..100 {
        for (claim, got) in claims.iter_mut().zip(&mut got) {
            *got += meters.deliver(claim, &bytes(), Overrun::Serve, 7_000);
        }
    }
    let whole = got.iter().filter(|got| **got == 700_000).count();
    assert_eq!(whole, 1);
    let all: u64 = got.iter().sum();
    assert!((MEGABYTE..MEGABYTE + 700_000).contains(&all), "{all}");
    // The answer that exceeds the grant has a limit, too.
    let one = claims.iter_mut().zip(&got).max_by_key(|(_, got)| **got);
    let (one, _) = one.unwrap();
    meters.deliver(one, &bytes(), Overrun::Serve, 100 * MEGABYTE);
    assert_eq!(meters.bytes(), 2 * MEGABYTE + (BEYOND_BYTES_MIN - MEGABYTE));
}

#[test]
fn an_unused_hold_is_returned_and_another_answer_may_run_beyond() {
    let mut meters = Meters::default();
    let mut stream = meters.claim(0);
    assert!(meters.begin(&mut stream, &bytes(), Overrun::Serve, (None, 0)));
    let mut aborted = meters.claim(0);
    assert!(meters.begin(&mut aborted, &bytes(), Overrun::Serve, (Some(MEGABYTE), 0)));
    assert!(!meters.has_room(&bytes(), Overrun::Serve, 0));
    assert_eq!(
        meters.deliver(&mut stream, &bytes(), Overrun::Serve, 10),
        10
    );
    meters.deliver(&mut aborted, &bytes(), Overrun::Serve, 1_000);
    meters.end(&mut aborted);
    assert_eq!(meters.rest(&bytes(), 0).bytes, Some(MEGABYTE - 1_010));
    let mut next = meters.claim(0);
    let length = Some(2 * MEGABYTE);
    assert!(meters.begin(&mut next, &bytes(), Overrun::Serve, (length, 0)));
    // The stream that exceeded the grant while everything was held now ends with the grant.
    assert_eq!(meters.deliver(&mut stream, &bytes(), Overrun::Serve, 10), 0);
}

#[test]
fn shares_of_the_largest_grant_do_not_exceed_it() {
    let mut meters = Meters::default();
    let endless = Allowance {
        bytes_max: Some(u64::MAX),
        seconds_max: Some(u64::MAX),
        ..Allowance::default()
    };
    at_once(&mut meters, 200);
    assert!(!meters.has_room(&endless, Overrun::Serve, 0));
}

#[test]
fn an_answer_without_a_body_needs_no_bytes() {
    let mut meters = Meters::default();
    let mut first = meters.claim(0);
    let mut head = meters.claim(0);
    assert!(meters.begin(&mut first, &bytes(), Overrun::Serve, (Some(MEGABYTE), 0)));
    assert!(meters.begin(&mut head, &bytes(), Overrun::Serve, (Some(0), 0)));
}

#[test]
fn seconds_of_concurrent_answers_add_up_and_one_runs_beyond() {
    let minute = Allowance {
        bytes_max: None,
        seconds_max: Some(60),
        ..bytes()
    };
    let mut meters = Meters::default();
    let mut claims = at_once(&mut meters, 3);
    assert!(meters.has_room(&minute, Overrun::Serve, 10_000));
    // Three answers have used sixty seconds together.
    assert!(!meters.has_room(&minute, Overrun::Serve, 20_000));
    for claim in &mut claims {
        assert!(meters.begin(claim, &minute, Overrun::Serve, (None, 1_000)));
    }
    let [first, second, third] = &mut claims[..] else {
        unreachable!("there are three")
    };
    meters.pass_time(first, 19_000);
    assert!(meters.has_time(first, &minute, Overrun::Serve, 19_000));
    meters.pass_time(second, 20_000);
    assert!(meters.has_time(second, &minute, Overrun::Serve, 20_000));
    assert!(!meters.has_time(third, &minute, Overrun::Serve, 20_000));
    assert!(!meters.has_time(second, &minute, Overrun::Cut, 20_000));
    meters.end(third);
    meters.end(first);
    meters.pass_time(second, 1_000_000);
    assert!(!meters.has_time(second, &minute, Overrun::Serve, 1_000_000));
}

#[test]
fn an_answer_does_not_begin_after_others_used_the_time_up() {
    let minute = Allowance {
        bytes_max: None,
        seconds_max: Some(60),
        ..bytes()
    };
    let mut meters = Meters::default();
    let mut claims = at_once(&mut meters, 50);
    let begun = claims.iter_mut().filter_map(|claim| {
        let has_begun = meters.begin(claim, &minute, Overrun::Serve, (None, 30_000));
        if !has_begun {
            meters.give_back(claim);
        }
        has_begun.then_some(())
    });
    assert_eq!(begun.count(), 2);
}

#[test]
fn a_message_passes_whole_or_not_at_all() {
    for overrun in [Overrun::Serve, Overrun::Cut] {
        let mut meters = Meters::default();
        let (mut one, mut other) = (meters.claim(0), meters.claim(0));
        assert!(meters.begin(&mut one, &bytes(), overrun, (None, 0)));
        assert!(meters.begin(&mut other, &bytes(), overrun, (None, 0)));
        assert!(meters.hold(&mut one, &bytes(), overrun, 900_000));
        // Bytes held for one answer are not available to the other. A rest that is too small for
        // the next message is used up.
        let is_served = meters.hold(&mut other, &bytes(), overrun, 200_000);
        assert_eq!(is_served, overrun == Overrun::Serve);
        for _ in 0..9 {
            assert_eq!(
                meters.deliver(&mut one, &bytes(), overrun, 100_000),
                100_000
            );
        }
        assert!(!meters.hold(&mut one, &bytes(), overrun, 1));
        assert!(!meters.has_room(&bytes(), overrun, 0));
        meters.end(&mut one);
        meters.end(&mut other);
        assert_eq!(meters.bytes.held, 0);
    }
    let mut meters = Meters::default();
    let mut claim = meters.claim(0);
    assert!(meters.hold(&mut claim, &Allowance::default(), Overrun::Cut, u64::MAX));
}
