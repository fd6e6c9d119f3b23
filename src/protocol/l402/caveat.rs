//! Caveats: the `condition=value` restrictions inside a token, and the rules to satisfy them.
//!
//! All caveats with a known condition are checked in order. Each must be at least as strict as the
//! one before, and the last must hold for the request. A known condition with a value that is not
//! understood fails. Unknown conditions are skipped, because holders add caveats for other
//! programs.

use std::fmt;
use std::net::IpAddr;

use super::credential::decode_preimage;
use super::sold_as::SoldAs;

/// The properties of a request that caveats can restrict.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The service that the request's route belongs to.
    pub service: &'a str,
    /// The route's price class. A token of a lower class does not open the route.
    pub tier: u32,
    /// The price of the request, in msat.
    pub price_msat: u64,
    /// The normalised path.
    pub path: &'a str,
    /// The method.
    pub method: &'a str,
    /// The client's address, if known.
    pub client: Option<IpAddr>,
    /// The current time, Unix seconds.
    pub now_secs: u64,
}

/// The reasons why the caveats of a token do not allow a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsatisfied {
    /// The token has no `services` caveat, or a `services` caveat without this service.
    Service,
    /// The token lists the service with a lower price class.
    Class,
    /// The token has expired.
    Expired,
    /// A later caveat allows more than an earlier one.
    Widened,
    /// The value of a known condition is not understood or not supported.
    NotUnderstood,
    /// The path, method, client address or price is outside the scope of the token.
    OutsideScope,
}

/// The limits that the caveats of a token set, once all of them are satisfied.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// The most requests for this token id in total; `None` for any number.
    pub requests_max: Option<u64>,
    /// The most response bytes for this token id in total.
    pub bytes_max: Option<u64>,
    /// The most metered seconds for this token id in total.
    pub seconds_max: Option<u64>,
    /// The highest price of a request that the token opens, in msat.
    pub price_max_msat: Option<u64>,
    /// Whether the token was sold at the price of one request. The minter states this in the caveat
    /// after the first `services`, where a holder cannot add one.
    pub is_priced: bool,
    /// The class that a hook sold; `None` if no hook priced the token or if the token is older.
    pub sold_as: Option<SoldAs>,
    /// The expiry of the token, Unix seconds.
    pub valid_until_secs: Option<u64>,
    /// Seconds added to the minter's expiry, because the invoice was paid this long after its own
    /// expiry.
    pub late_secs: u64,
    /// The preimage inside the token, if a caveat holds one.
    pub preimage: Option<[u8; 32]>,
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance")
            .field("requests_max", &self.requests_max)
            .field("bytes_max", &self.bytes_max)
            .field("seconds_max", &self.seconds_max)
            .field("price_max_msat", &self.price_max_msat)
            .field("is_priced", &self.is_priced)
            .field("sold_as", &self.sold_as)
            .field("valid_until_secs", &self.valid_until_secs)
            .field("late_secs", &self.late_secs)
            .field("preimage", &self.preimage.map(|_| "…"))
            .finish()
    }
}

/// Checks every caveat against the request.
pub fn satisfy<'a>(
    caveats: impl Iterator<Item = &'a [u8]>,
    subject: &Subject<'_>,
) -> Result<Allowance, Unsatisfied> {
    satisfy_late(caveats, subject, 0)
}

/// Checks the caveats of a token whose invoice was paid `late_secs` after the invoice expired. The
/// token is valid for as much longer, unless its holder shortened it. The minter writes an expiry
/// for each service, so the first one is the minter's.
pub fn satisfy_late<'a>(
    caveats: impl Iterator<Item = &'a [u8]>,
    subject: &Subject<'_>,
    late_secs: u64,
) -> Result<Allowance, Unsatisfied> {
    let mut allowance = Allowance {
        late_secs,
        ..Allowance::default()
    };
    let mut services: Option<&str> = None;
    for (index, caveat) in caveats.enumerate() {
        // A caveat without a condition is for another program.
        let Some((condition, value)) = split(caveat) else {
            continue;
        };
        let Ok(value) = std::str::from_utf8(value) else {
            if is_ours(condition, subject.service) {
                return Err(Unsatisfied::NotUnderstood);
            }
            continue;
        };
        if condition == "services" {
            if services.is_some_and(|before| !is_narrower_list(value, before)) {
                return Err(Unsatisfied::Widened);
            }
            services = Some(value);
        } else if condition == "preimage" {
            let preimage = decode_preimage(value.as_bytes()).ok_or(Unsatisfied::NotUnderstood)?;
            if allowance.preimage.is_some_and(|before| before != preimage) {
                return Err(Unsatisfied::Widened);
            }
            allowance.preimage = Some(preimage);
        } else if let Some(condition) = condition
            .strip_prefix(subject.service)
            .and_then(|rest| rest.strip_prefix('_'))
        {
            satisfy_own(condition, value, subject, &mut allowance)?;
            let is_by_the_minter = index == 1 && services.is_some();
            allowance.is_priced |= is_by_the_minter && condition == "price_msat";
        }
    }
    let tier = tier_of(services.ok_or(Unsatisfied::Service)?, subject.service);
    if tier.ok_or(Unsatisfied::Service)? < subject.tier {
        return Err(Unsatisfied::Class);
    }
    if allowance
        .valid_until_secs
        .is_some_and(|until| subject.now_secs >= until)
    {
        return Err(Unsatisfied::Expired);
    }
    Ok(allowance)
}

/// The preimage in a preimage caveat: `None` for another caveat, `Some(None)` for an invalid
/// preimage.
pub(super) fn preimage_inside(caveat: &[u8]) -> Option<Option<[u8; 32]>> {
    let (condition, value) = split(caveat)?;
    (condition == "preimage").then(|| decode_preimage(value))
}

/// A caveat's condition and value, at the first `=`.
fn split(caveat: &[u8]) -> Option<(&str, &[u8])> {
    let end = caveat.iter().position(|byte| *byte == b'=')?;
    let condition = std::str::from_utf8(&caveat[..end]).ok()?;
    Some((condition, &caveat[end + 1..]))
}

/// Whether the condition is known here.
fn is_ours(condition: &str, service: &str) -> bool {
    let is_of_service = |condition: &str| {
        condition
            .strip_prefix(service)
            .is_some_and(|rest| rest.starts_with('_'))
    };
    matches!(condition, "services" | "preimage") || is_of_service(condition)
}

/// Checks one condition of the form `<service>_<condition>`. Every scope (path, method, client,
/// price) must hold, so each one narrows the token further. A limit is compared with the one
/// before.
fn satisfy_own(
    condition: &str,
    value: &str,
    subject: &Subject<'_>,
    allowance: &mut Allowance,
) -> Result<(), Unsatisfied> {
    match condition {
        "valid_until" => {
            let is_the_minters = allowance.valid_until_secs.is_none();
            narrow(&mut allowance.valid_until_secs, value)?;
            if let Some(until_secs) = allowance
                .valid_until_secs
                .as_mut()
                .filter(|_| is_the_minters)
            {
                *until_secs = until_secs.saturating_add(allowance.late_secs);
            }
            Ok(())
        }
        "requests" => narrow(&mut allowance.requests_max, value),
        "bytes" => narrow(&mut allowance.bytes_max, value),
        "seconds" => narrow(&mut allowance.seconds_max, value),
        "price_msat" => {
            let max = decimal(value)?;
            let before = allowance.price_max_msat.unwrap_or(u64::MAX);
            allowance.price_max_msat = Some(max.min(before));
            in_scope(subject.price_msat <= max)
        }
        "class" => {
            let sold_as = SoldAs::parse(value).map_err(|_| Unsatisfied::NotUnderstood)?;
            let before = allowance.sold_as.unwrap_or(sold_as);
            allowance.sold_as = Some(before.and(sold_as));
            Ok(())
        }
        "path" => in_scope(
            value
                .strip_suffix('*')
                .map_or(value == subject.path, |start| {
                    subject.path.starts_with(start)
                }),
        ),
        "method" => in_scope(value.split(',').any(|method| method == subject.method)),
        "ip" => in_scope(is_in_network(subject.client, value).ok_or(Unsatisfied::NotUnderstood)?),
        // The condition is for another program. `capabilities` is ignored, because no route
        // requires any.
        _ => Ok(()),
    }
}

/// Replaces a limit by an equal or stricter one.
fn narrow(limit: &mut Option<u64>, value: &str) -> Result<(), Unsatisfied> {
    let value = decimal(value)?;
    if limit.is_some_and(|before| value > before) {
        return Err(Unsatisfied::Widened);
    }
    *limit = Some(value);
    Ok(())
}

fn in_scope(holds: bool) -> Result<(), Unsatisfied> {
    if holds {
        Ok(())
    } else {
        Err(Unsatisfied::OutsideScope)
    }
}

/// Parses digits only: `u64::from_str` would also accept a plus sign.
fn decimal(value: &str) -> Result<u64, Unsatisfied> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unsatisfied::NotUnderstood);
    }
    value.parse().map_err(|_| Unsatisfied::NotUnderstood)
}

/// The price class that a `services` value gives to this service.
fn tier_of(services: &str, service: &str) -> Option<u32> {
    services.split(',').find_map(|entry| {
        let (name, tier) = entry.split_once(':')?;
        (name == service).then(|| tier.parse().ok())?
    })
}

/// Whether `before` lists every service of `later` with the same price class or a higher one.
fn is_narrower_list(later: &str, before: &str) -> bool {
    later.split(',').all(|entry| {
        let Some((name, tier)) = entry.split_once(':') else {
            return false;
        };
        let Ok(tier) = tier.parse::<u32>() else {
            return false;
        };
        tier_of(before, name).is_some_and(|allowed| tier <= allowed)
    })
}

/// Whether the client is in the network `address/length` or has the address; `None` if `network` is
/// invalid.
fn is_in_network(client: Option<IpAddr>, network: &str) -> Option<bool> {
    let (address, length) = match network.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
        None => (network, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let (network_bits, width) = bits(address);
    let length = length.unwrap_or(width);
    if length > width {
        return None;
    }
    let Some((client_bits, client_width)) = client.map(|client| bits(client.to_canonical())) else {
        return Some(false);
    };
    let shift = width - length;
    let differing = (network_bits ^ client_bits).checked_shr(shift).unwrap_or(0);
    Some(client_width == width && differing == 0)
}

/// An address as a number, and its length in bits.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'static> = Subject {
        service: "chain",
        tier: 0,
        price_msat: 10_000,
        path: "/chain/blocks",
        method: "GET",
        client: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7))),
        now_secs: 1_000,
    };

    fn check(caveats: &[&str]) -> Result<Allowance, Unsatisfied> {
        satisfy(caveats.iter().map(|caveat| caveat.as_bytes()), &SUBJECT)
    }

    #[test]
    fn a_token_opens_only_the_services_it_lists() {
        assert!(check(&["services=chain:0"]).is_ok());
        assert!(check(&["services=other:0,chain:3"]).is_ok());
        for caveats in [
            &[][..],
            &["services=other:0"],
            &["services="],
            &["services=chain"],
            &["services=chain:"],
            &["services=chain:x"],
            &["services=chains:0"],
        ] {
            assert_eq!(check(caveats), Err(Unsatisfied::Service), "{caveats:?}");
        }
    }

    #[test]
    fn a_cheap_price_class_does_not_open_a_dear_one() {
        let dear = Subject { tier: 2, ..SUBJECT };
        let check = |caveat: &str| satisfy(std::iter::once(caveat.as_bytes()), &dear);
        assert_eq!(check("services=chain:1"), Err(Unsatisfied::Class));
        assert!(check("services=chain:2").is_ok());
    }

    #[test]
    fn a_late_payment_puts_off_the_minters_end_and_not_the_holders() {
        let check = |caveats: &[&str], late_secs| {
            let caveats = caveats.iter().map(|caveat| caveat.as_bytes());
            satisfy_late(caveats, &SUBJECT, late_secs).map(|it| it.valid_until_secs)
        };
        let minted = [
            "services=chain:0,other:0",
            "chain_valid_until=990",
            "other_valid_until=990",
        ];
        assert_eq!(check(&minted, 0), Err(Unsatisfied::Expired));
        assert_eq!(check(&minted, 10), Err(Unsatisfied::Expired));
        assert_eq!(check(&minted, 11), Ok(Some(1_001)));
        let shortened = [&minted[..], &["chain_valid_until=980"]].concat();
        assert_eq!(check(&shortened, 1_000), Err(Unsatisfied::Expired));
        let widened = [&minted[..], &["chain_valid_until=2000"]].concat();
        assert_eq!(check(&widened, 20), Err(Unsatisfied::Widened));
        assert_eq!(check(&minted, u64::MAX), Ok(Some(u64::MAX)));
    }

    #[test]
    fn later_caveats_only_narrow() {
        let services = "services=chain:0,other:1";
        assert!(check(&[services, "services=chain:0"]).is_ok());
        for wider in [
            "services=chain:1",
            "services=chain:0,third:0",
            "services=chain",
        ] {
            assert_eq!(
                check(&[services, wider]),
                Err(Unsatisfied::Widened),
                "{wider}"
            );
        }
        let allowance = check(&[services, "chain_requests=5", "chain_requests=2"]).unwrap();
        assert_eq!(allowance.requests_max, Some(2));
        assert_eq!(
            check(&[services, "chain_requests=5", "chain_requests=6"]),
            Err(Unsatisfied::Widened)
        );
        assert_eq!(
            check(&[services, "chain_valid_until=2000", "chain_valid_until=2001"]),
            Err(Unsatisfied::Widened)
        );
    }

    #[test]
    fn a_token_is_good_until_its_second_and_not_in_it() {
        assert!(check(&["services=chain:0", "chain_valid_until=1001"]).is_ok());
        assert_eq!(
            check(&["services=chain:0", "chain_valid_until=1000"]),
            Err(Unsatisfied::Expired)
        );
    }

    #[test]
    fn a_holder_narrows_to_a_path_a_method_a_network_a_price() {
        let with = |caveat| check(&["services=chain:0", caveat]);
        for good in [
            "chain_path=/chain/*",
            "chain_path=/chain/blocks",
            "chain_method=HEAD,GET",
            "chain_ip=192.0.2.0/24",
            "chain_ip=192.0.2.7",
            "chain_ip=0.0.0.0/0",
            "chain_price_msat=10000",
            "chain_capabilities=",
        ] {
            assert!(with(good).is_ok(), "{good}");
        }
        for outside in [
            "chain_path=/chain/tx*",
            "chain_path=/chain",
            "chain_method=POST",
            "chain_method=get",
            "chain_ip=192.0.3.0/24",
            "chain_ip=::/0",
            "chain_price_msat=9999",
        ] {
            assert_eq!(with(outside), Err(Unsatisfied::OutsideScope), "{outside}");
        }
        let twice = check(&[
            "services=chain:0",
            "chain_path=/chain/tx*",
            "chain_path=/chain/*",
        ]);
        assert_eq!(twice, Err(Unsatisfied::OutsideScope));
    }

    #[test]
    fn conditions_of_ours_that_are_not_understood_fail_closed() {
        for caveat in [
            "chain_requests=",
            "chain_requests=+1",
            "chain_requests=-1",
            "chain_requests=many",
            "chain_requests=99999999999999999999",
            "chain_valid_until=soon",
            "chain_ip=nowhere",
            "chain_ip=192.0.2.0/33",
            "chain_bytes=x",
            "chain_class=",
            "chain_class=Bulk",
            "chain_seconds=-5",
            "preimage=00",
        ] {
            assert_eq!(
                check(&["services=chain:0", caveat]),
                Err(Unsatisfied::NotUnderstood),
                "{caveat}"
            );
        }
    }

    #[test]
    fn conditions_of_others_are_skipped() {
        for caveat in [
            "mood=sunny",
            "other_valid_until=1",
            "no condition at all",
            "chain_mood=sunny",
        ] {
            assert!(check(&["services=chain:0", caveat]).is_ok(), "{caveat}");
        }
        for others in [&[0xff, 0xfe][..], b"\xff=1", b"mood=\xff"] {
            let bytes = [&b"services=chain:0"[..], others];
            assert!(satisfy(bytes.into_iter(), &SUBJECT).is_ok());
        }
        // A known condition that cannot be read is not skipped.
        for ours in [
            &b"chain_path=/caf\xe9"[..],
            b"services=\xff",
            b"preimage=\xff",
        ] {
            let bytes = [&b"services=chain:0"[..], ours];
            assert_eq!(
                satisfy(bytes.into_iter(), &SUBJECT),
                Err(Unsatisfied::NotUnderstood)
            );
        }
    }
}
