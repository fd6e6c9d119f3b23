use super::*;

#[derive(Default)]
struct Known {
    pub(super) txids: Vec<Txid>,
    pub(super) channels: Vec<(UserChannelId, Option<Txid>)>,
    pub(super) read_secs: u64,
    pub(super) is_taken: bool,
}

impl Wallet for Known {
    fn knows(&self, txid: Txid, _before_sat: u64) -> bool {
        self.txids.contains(&txid)
    }

    fn is_taken(&self, _txid: Txid) -> bool {
        self.is_taken
    }

    fn funding(&self, channel: UserChannelId) -> Option<Option<Txid>> {
        let mut found = self.channels.iter().filter(|(it, _)| *it == channel);
        found.next().map(|(_, funding)| *funding)
    }

    fn read_secs(&self) -> u64 {
        self.read_secs
    }
}

const START: u64 = 1_000;
const NOW: u64 = 2_000;

fn txid(byte: u8) -> Txid {
    Txid::from_byte_array([byte; 32])
}

fn sent(byte: u8) -> Last {
    Last::Sent {
        txid: txid(byte),
        at_secs: NOW,
        before_sat: 0,
    }
}

fn in_use(coins: &Coins, wallet: &Known) -> Option<CoinsInUse> {
    coins.in_use(wallet, START, NOW)
}

#[test]
fn nothing_is_made_before_the_chain_was_read_since_the_start() {
    let (coins, mut wallet) = (Coins::default(), Known::default());
    wallet.read_secs = START - 1;
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
    wallet.read_secs = START;
    assert_eq!(in_use(&coins, &wallet), None);
}

#[test]
fn what_was_sent_is_seen_or_is_nowhere_before_the_next() {
    let (coins, mut wallet) = (Coins::default(), Known::default());
    wallet.read_secs = NOW + GONE_AFTER_SECS - 1;
    coins.note(sent(1));
    let waits = Some(CoinsInUse::Sent(txid(1)));
    assert_eq!(in_use(&coins, &wallet), waits);
    wallet.txids = vec![txid(2)];
    assert_eq!(in_use(&coins, &wallet), waits);
    wallet.txids = vec![txid(1)];
    assert_eq!(in_use(&coins, &wallet), None);
    // No endpoint has accepted this transaction.
    coins.note(sent(3));
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(3))));
    wallet.read_secs += 1;
    wallet.is_taken = true;
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(3))));
    wallet.is_taken = false;
    assert_eq!(coins.sent(), Some(txid(3)));
    assert_eq!(in_use(&coins, &wallet), None);
    assert_eq!(
        coins.sent(),
        None,
        "what is spent otherwise now is not sent again"
    );
}

#[test]
fn a_clock_that_was_ahead_keeps_the_wallet_closed_for_no_day() {
    let (coins, wallet) = (
        Coins::default(),
        Known {
            read_secs: NOW,
            ..Known::default()
        },
    );
    assert_eq!(coins.in_use(&wallet, NOW + 86_400, NOW), None);
    coins.note(Last::Unread {
        since_secs: NOW + 86_400,
    });
    assert_eq!(in_use(&coins, &wallet), None);
}

#[test]
fn whoever_tries_again_and_again_has_the_chain_looked_at_now_and_then() {
    let coins = Coins::default();
    let sent = |byte| CoinsInUse::Sent(txid(byte));
    assert!(coins.may_look(sent(1), NOW));
    assert!(!coins.may_look(sent(1), NOW + LOOK_EVERY_SECS - 1));
    assert!(coins.may_look(sent(1), NOW + LOOK_EVERY_SECS));
    assert!(coins.may_look(sent(2), NOW + LOOK_EVERY_SECS));
    assert!(!coins.may_look(CoinsInUse::Opening, NOW + 1_000));
}

#[test]
fn a_channel_has_its_funding_before_the_next_thing_is_made() {
    let (coins, mut wallet) = (Coins::default(), Known::default());
    let channel = UserChannelId(7);
    coins.note(Last::Opening {
        channel,
        before_sat: 0,
    });
    wallet.channels = vec![(channel, None)];
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Opening));
    wallet.channels = vec![(channel, Some(txid(1)))];
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
    // The channel was closed at once, and its funding is not seen yet.
    wallet.channels.clear();
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
    wallet.txids = vec![txid(1)];
    assert_eq!(in_use(&coins, &wallet), None);
    // The channel was given up before the wallet was asked, so only the chain tells whether it was
    // funded.
    coins.note(Last::Opening {
        channel,
        before_sat: 0,
    });
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
    wallet.read_secs = NOW;
    assert_eq!(in_use(&coins, &wallet), None);
}

#[test]
fn a_splice_is_agreed_on_or_given_up_before_the_next_thing_is_made() {
    let (coins, mut wallet) = (Coins::default(), Known::default());
    let (one, other) = (ChannelId([1; 32]), ChannelId([2; 32]));
    let splicing = Last::Splicing {
        channel: one,
        before_sat: 0,
    };
    coins.note(splicing);
    coins.spliced(other, txid(2), NOW);
    coins.not_spliced(other, NOW);
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Splicing(one)));
    coins.spliced(one, txid(1), NOW);
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
    wallet.txids = vec![txid(1)];
    assert_eq!(in_use(&coins, &wallet), None);
    coins.note(splicing);
    coins.not_spliced(one, NOW);
    assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
    wallet.read_secs = NOW;
    assert_eq!(in_use(&coins, &wallet), None);
}
