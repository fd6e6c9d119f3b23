use super::super::super::reach::testing::peer;
use super::super::super::strangers::testing::config;
use super::*;

fn guests(max: usize, of_network: usize) -> Guests {
    Guests::new(&PeersConfig {
        connections_max: max,
        connections_per_network: of_network,
        ..config()
    })
}

fn enter(guests: &mut Guests, from: &str) -> Option<Entered> {
    guests.enter(from.parse().unwrap(), Instant::now())
}

/// Makes ldk-node report this connection as that of peer `number`.
fn known(guests: &mut Guests, entered: &Entered, number: u8, is_kept: bool) {
    let port = 1_000 + u16::from(number);
    guests.passed_on(entered.number, port);
    guests.shown(entered.number);
    let details = ldk_node::PeerDetails {
        node_id: peer(number),
        address: SocketAddress::TcpIpV4 {
            addr: [127, 0, 0, 1],
            port,
        },
        is_persisted: false,
        is_connected: true,
    };
    guests.know(&[details], |_| is_kept);
}

#[test]
fn of_one_network_the_oldest_that_says_nothing_makes_room() {
    let mut guests = guests(100, 3);
    let real = enter(&mut guests, "192.0.2.1").unwrap();
    known(&mut guests, &real, 1, false);
    let idle = enter(&mut guests, "192.0.2.2").unwrap();
    let late = enter(&mut guests, "192.0.2.3").unwrap();
    let fourth = enter(&mut guests, "192.0.2.4").unwrap();
    assert!(idle.cut.is_cancelled() && !real.cut.is_cancelled());
    assert!(!late.cut.is_cancelled() && !fourth.cut.is_cancelled());
    assert_eq!((guests.count(), guests.refused()), (3, 1));
    assert!(enter(&mut guests, "198.51.100.1").is_some());
    assert_eq!(guests.count(), 4);
}

#[test]
fn when_it_is_full_the_largest_network_makes_room_and_who_is_kept_does_not() {
    let mut guests = guests(4, 4);
    let kept = enter(&mut guests, "203.0.113.9").unwrap();
    known(&mut guests, &kept, 1, true);
    let other = enter(&mut guests, "198.51.100.1").unwrap();
    let flood: Vec<_> = (0..2)
        .map(|_| enter(&mut guests, "192.0.2.7").unwrap())
        .collect();
    let new = enter(&mut guests, "203.0.113.8").unwrap();
    assert!(flood[0].cut.is_cancelled() && !flood[1].cut.is_cancelled());
    for entered in [&kept, &other, &new] {
        assert!(!entered.cut.is_cancelled());
    }
    for (number, entered) in [(2, &other), (3, &flood[1]), (4, &new)] {
        known(&mut guests, entered, number, true);
    }
    assert!(enter(&mut guests, "192.0.2.1").is_none());
}

#[test]
fn who_went_beyond_the_bounds_too_often_is_cut_and_who_has_a_channel_is_not() {
    let mut guests = guests(10, 10);
    let bad = enter(&mut guests, "192.0.2.1").unwrap();
    let neighbour = enter(&mut guests, "192.0.2.2").unwrap();
    known(&mut guests, &bad, 1, false);
    for _ in 0..=STRIKES {
        guests.strike(&peer(1), Violation::Channel, Instant::now());
    }
    known(&mut guests, &bad, 1, false);
    assert!(bad.cut.is_cancelled());
    known(&mut guests, &neighbour, 2, true);
    assert!(!neighbour.cut.is_cancelled());
    let far = enter(&mut guests, "192.0.3.2").unwrap();
    known(&mut guests, &far, 3, false);
    assert!(!far.cut.is_cancelled());
}

/// Whether a new connection from this address is held until its peer is known.
fn is_held(guests: &mut Guests, from: &str) -> bool {
    let entered = enter(guests, from).unwrap();
    !entered.released.is_cancelled()
}

#[test]
fn who_hangs_up_at_once_is_shut_out() {
    let mut guests = guests(10, 10);
    for number in 0..=u8::try_from(STRIKES).unwrap() {
        assert!(!is_held(&mut guests, "192.0.2.3"));
        let bad = enter(&mut guests, "192.0.2.1").unwrap();
        guests.passed_on(bad.number, 7);
        guests.shown(bad.number);
        guests.leave(bad.number, Instant::now());
        guests.strike(&peer(100 + number), Violation::Channel, Instant::now());
    }
    assert!(is_held(&mut guests, "192.0.2.1"));
    assert!(!is_held(&mut guests, "192.0.3.1"));
}

#[test]
fn only_kept_peers_of_a_blocked_network_are_released() {
    let mut guests = guests(10, 10);
    let home = network("192.0.2.1".parse().unwrap());
    for _ in 0..=STRIKES {
        guests.struck.add(home, Violation::Channel, Instant::now());
    }
    // The peer has never connected before.
    let customer = enter(&mut guests, "192.0.2.1").unwrap();
    let stranger = enter(&mut guests, "192.0.2.2").unwrap();
    assert!(!customer.released.is_cancelled() && !stranger.released.is_cancelled());
    known(&mut guests, &customer, 1, true);
    known(&mut guests, &stranger, 2, false);
    assert!(customer.released.is_cancelled() && !customer.cut.is_cancelled());
    assert!(!stranger.released.is_cancelled() && stranger.cut.is_cancelled());
}

#[test]
fn of_this_machine_a_blocked_peer_is_cut_before_it_asks_again_and_others_are_not() {
    let mut guests = guests(10, 10);
    let bad = enter(&mut guests, "127.0.0.1").unwrap();
    known(&mut guests, &bad, 1, false);
    for _ in 0..=STRIKES {
        guests.strike(&peer(1), Violation::Channel, Instant::now());
    }
    let again = enter(&mut guests, "127.0.0.1").unwrap();
    let other = enter(&mut guests, "127.0.0.1").unwrap();
    assert!(!again.released.is_cancelled() && !other.released.is_cancelled());
    known(&mut guests, &again, 1, false);
    known(&mut guests, &other, 2, false);
    assert!(again.cut.is_cancelled() && !again.released.is_cancelled());
    assert!(other.released.is_cancelled() && !other.cut.is_cancelled());
}

#[test]
fn a_channel_does_not_keep_a_peer_that_goes_beyond_the_bounds_itself() {
    let mut guests = guests(10, 10);
    let bad = enter(&mut guests, "192.0.2.1").unwrap();
    known(&mut guests, &bad, 1, true);
    let other = enter(&mut guests, "192.0.2.9").unwrap();
    known(&mut guests, &other, 2, true);
    for _ in 0..=STRIKES {
        guests.strike(&peer(1), Violation::Channel, Instant::now());
    }
    known(&mut guests, &bad, 1, true);
    known(&mut guests, &other, 2, true);
    assert!(bad.cut.is_cancelled() && !other.cut.is_cancelled());
    guests.leave(bad.number, Instant::now());
    assert!(is_held(&mut guests, "192.0.2.1"));
}

#[test]
fn strangers_of_many_networks_are_shut_out_together_and_kept_peers_are_not() {
    let mut guests = guests(300, 10);
    for number in 1..=u8::try_from(STRIKES_IN_ALL).unwrap() + 1 {
        let bad = enter(&mut guests, &format!("198.51.{number}.1")).unwrap();
        assert!(bad.released.is_cancelled());
        known(&mut guests, &bad, number, false);
        guests.strike(&peer(number), Violation::Channel, Instant::now());
    }
    assert!(guests.are_all_shut_out(Instant::now()));
    let stranger = enter(&mut guests, "192.0.2.1").unwrap();
    known(&mut guests, &stranger, 200, false);
    assert!(stranger.cut.is_cancelled());
    let customer = enter(&mut guests, "203.0.113.9").unwrap();
    known(&mut guests, &customer, 201, true);
    assert!(customer.released.is_cancelled() && !customer.cut.is_cancelled());
    let later = Instant::now() + ALL_STRUCK_FOR + Duration::from_secs(1);
    assert!(!guests.are_all_shut_out(later));
}

#[test]
fn a_refused_channel_counts_less_than_one_that_is_given_up() {
    let mut guests = guests(10, 10);
    let honest = enter(&mut guests, "192.0.2.1").unwrap();
    known(&mut guests, &honest, 1, false);
    for _ in 0..STRIKES * Violation::Channel.weight() {
        guests.strike(&peer(1), Violation::Refused, Instant::now());
    }
    known(&mut guests, &honest, 1, false);
    assert!(!honest.cut.is_cancelled());
    guests.strike(&peer(1), Violation::Refused, Instant::now());
    known(&mut guests, &honest, 1, false);
    assert!(honest.cut.is_cancelled());
}

#[test]
fn a_network_is_a_24_or_a_48() {
    for (address, home) in [
        ("192.0.2.77", "192.0.2.0"),
        ("::ffff:192.0.2.77", "192.0.2.0"),
        ("2001:db8:1:2::3", "2001:db8:1::"),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(network(address), home.parse::<IpAddr>().unwrap());
    }
}
