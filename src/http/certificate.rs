//! Reads a certificate's validity period and DNS names.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::tls::TlsSource;

/// A certificate that expires sooner should have been renewed: ACME clients renew a month before expiry.
const SOON_SECS: u64 = 14 * DAY_SECS;

/// The limit for short-lived certificates: a fifth of their lifetime,
const SOON_PART: u64 = 5;
/// but at least a week, unless this program renews the certificate itself.
const SOON_MIN_SECS: u64 = 7 * DAY_SECS;

const DAY_SECS: u64 = 86_400;

/// The largest certificate file to read; a chain has about 10 KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The prefix of the ACME cache's certificate files.
const CACHED: &str = "cached_cert_";

/// DER tags.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;

/// The object identifier of the extension with the names: 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// A certificate's validity period and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Start of validity, Unix seconds.
    pub from_secs: u64,
    /// End of validity, Unix seconds.
    pub until_secs: u64,
    /// The DNS names.
    pub names: Vec<String>,
    /// Whether this program renews the certificate itself.
    pub renews_itself: bool,
}

/// The state of a certificate at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Valid, and not due for renewal.
    Good,
    /// Due for renewal.
    EndsSoon,
    /// Expired: clients refuse it.
    Ended,
    /// Not valid yet: clients refuse it, or the clock of this machine is wrong.
    NotYet,
}

impl Certificate {
    /// Parses a DER certificate; `None` if it is malformed.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut body = Der(certificate.expect(SEQUENCE)?);
        body.skip(VERSION);
        body.expect(INTEGER)?;
        // Signature algorithm and issuer.
        body.expect(SEQUENCE)?;
        body.expect(SEQUENCE)?;
        let mut validity = Der(body.expect(SEQUENCE)?);
        let from_secs = time(validity.next()?)?;
        let until_secs = time(validity.next()?)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = body.next() {
            if tag == EXTENSIONS {
                names = names_in(content).unwrap_or_default();
            }
        }
        Some(Self {
            from_secs,
            until_secs,
            names,
            renews_itself: false,
        })
    }

    /// Parses a PEM chain: the names of the first certificate, and the period in which all of them are valid.
    pub fn of_chain(pem: &[u8]) -> Option<Self> {
        let mut chain = None::<Self>;
        for der in CertificateDer::pem_slice_iter(pem) {
            let one = Self::read(&der.ok()?)?;
            chain = Some(match chain {
                None => one,
                Some(chain) => Self {
                    from_secs: chain.from_secs.max(one.from_secs),
                    until_secs: chain.until_secs.min(one.until_secs),
                    ..chain
                },
            });
        }
        chain
    }

    /// The state at this moment.
    pub fn term(&self, now_secs: u64) -> Term {
        let lifetime_secs = self.until_secs.saturating_sub(self.from_secs);
        let min_secs = if self.renews_itself { 0 } else { SOON_MIN_SECS };
        let soon_secs = SOON_SECS.min((lifetime_secs / SOON_PART).max(min_secs));
        match self.until_secs.checked_sub(now_secs) {
            _ if now_secs < self.from_secs => Term::NotYet,
            None | Some(0) => Term::Ended,
            Some(left_secs) if left_secs <= soon_secs => Term::EndsSoon,
            Some(_) => Term::Good,
        }
    }

    /// The same as a sentence; `None` if the certificate is good.
    pub fn complaint(&self, now_secs: u64) -> Option<String> {
        let left_secs = self.until_secs.saturating_sub(now_secs);
        match self.term(now_secs) {
            Term::Good => None,
            Term::EndsSoon if left_secs < 2 * DAY_SECS => Some(format!(
                "the certificate ends in {} hours: renew it",
                left_secs / 3_600
            )),
            Term::EndsSoon => Some(format!(
                "the certificate ends in {} days: renew it",
                left_secs / DAY_SECS
            )),
            Term::Ended => Some(format!(
                "the certificate ended {} days ago, and clients refuse it: renew it",
                now_secs.saturating_sub(self.until_secs) / DAY_SECS
            )),
            Term::NotYet => Some(
                "the certificate is not good yet, and clients refuse it: is the clock of this machine right?"
                    .to_owned(),
            ),
        }
    }
}

impl TlsSource {
    /// The certificate that is on disk now. `None` if the authority has not issued one yet or the file cannot be read, which is
    /// reported elsewhere.
    pub fn certificate(&self) -> Option<Certificate> {
        match self {
            Self::Files(files) => Certificate::of_chain(&file(&files.cert)?),
            Self::Acme(settings) => {
                let files = std::fs::read_dir(&settings.cache).ok()?.flatten();
                let is_certificate = |file: &std::fs::DirEntry| {
                    file.file_name().to_string_lossy().starts_with(CACHED)
                };
                let read = files
                    .filter(is_certificate)
                    .filter_map(|cached| Certificate::of_chain(&file(&cached.path())?));
                // The cache may hold older certificates of other names or another authority.
                let of_these =
                    read.filter(|it| settings.domains.iter().all(|name| it.names.contains(name)));
                let newest = of_these.max_by_key(|it| it.until_secs)?;
                Some(Certificate {
                    renews_itself: true,
                    ..newest
                })
            }
        }
    }
}

fn file(path: &Path) -> Option<Vec<u8>> {
    let is_short = path.metadata().ok()?.len() <= FILE_BYTES_MAX;
    is_short.then(|| std::fs::read(path).ok())?
}

fn names_in(extensions: &[u8]) -> Option<Vec<String>> {
    let mut all = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some((SEQUENCE, extension)) = all.next() {
        let mut extension = Der(extension);
        if extension.expect(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        // The optional `critical` flag comes before the value.
        let value = loop {
            if let (OCTET_STRING, value) = extension.next()? {
                break value;
            }
        };
        let mut names = Der(Der(value).expect(SEQUENCE)?);
        let mut found = Vec::new();
        while let Some((tag, name)) = names.next() {
            if tag == DNS_NAME {
                found.push(std::str::from_utf8(name).ok()?.to_owned());
            }
        }
        return Some(found);
    }
    None
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the only forms that certificates may use (RFC 5280, 4.1.2.5), to Unix seconds.
fn time((tag, text): (u8, &[u8])) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (
                if year < 50 {
                    2_000 + year
                } else {
                    1_900 + year
                },
                rest,
            )
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| -> Option<u64> { rest.get(at..at + 2)?.parse().ok() };
    let (month, day) = (part(0)?, part(2)?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && rest.len() == 10;
    // Dates before 1970 become 1970: the certificate has expired either way.
    let days = is_date.then(|| days(year, month, day))?;
    Some(days * DAY_SECS + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// Days from 1970 to this date; 0 before 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Counts years from March, so that a leap day comes last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.saturating_sub(1), month + 9)
    };
    let leap_days = year / 4 + year / 400 - year / 100;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1;
    days.saturating_sub(DAYS_TO_1970)
}

/// Days from March of year 0 to 1970.
const DAYS_TO_1970: u64 = 719_468;

/// A sequence of DER values.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = length
                    .iter()
                    .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                (usize::try_from(length).ok()?, rest)
            }
            // DER has no indefinite lengths, and no certificate has 4 GB.
            0x80 | 0x85.. => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next value; `None` if its tag differs.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(content)
    }

    /// Skips the next value if it has this tag.
    fn skip(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

    #[test]
    fn days_follow_the_calendar() {
        for (date, wanted) in [
            ((1970, 1, 1), 0),
            ((1970, 12, 31), 364),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 30), 20_787),
            ((2100, 3, 1), 47_541),
            ((1950, 1, 1), 0),
        ] {
            let (year, month, day) = date;
            assert_eq!(days(year, month, day), wanted, "{date:?}");
        }
        let at = |tag, text: &str| time((tag, text.as_bytes()));
        assert_eq!(at(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(at(UTC_TIME, "251009085320Z"), Some(NOW_SECS));
        assert_eq!(at(GENERALIZED_TIME, "20251009085320Z"), Some(NOW_SECS));
        for text in [
            "",
            "Z",
            "251009085320",
            "2510090853Z",
            "251309085320Z",
            "25100908532äZ",
        ] {
            assert_eq!(at(UTC_TIME, text), None, "{text}");
        }
    }

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8), names: &[&str]) -> (Vec<u8>, String) {
        let names = names.iter().map(|name| (*name).to_owned());
        let mut wanted = rcgen::CertificateParams::new(names.collect::<Vec<_>>()).unwrap();
        wanted.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        wanted.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let made = wanted
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap();
        (made.der().to_vec(), made.pem())
    }

    #[test]
    fn a_certificate_is_read_with_its_validity_and_names() {
        let (der, pem) = certificate(
            (2025, 1, 2),
            (2051, 3, 4),
            &["shop.example", "*.b.example", "127.0.0.1"],
        );
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.from_secs, days(2025, 1, 2) * DAY_SECS);
        assert_eq!(read.until_secs, days(2051, 3, 4) * DAY_SECS);
        assert_eq!(read.names, ["shop.example", "*.b.example"]);
        assert_eq!(Certificate::of_chain(pem.as_bytes()), Some(read));
        // An intermediate that expires sooner limits the chain.
        let (_, above) = certificate((2024, 1, 1), (2030, 1, 1), &[]);
        let chain = Certificate::of_chain(format!("{pem}{above}").as_bytes()).unwrap();
        assert_eq!(chain.until_secs, days(2030, 1, 1) * DAY_SECS);
        assert_eq!(chain.names, ["shop.example", "*.b.example"]);
        for length in 0..der.len() {
            assert_eq!(Certificate::read(&der[..length]), None, "{length}");
        }
        assert_eq!(Certificate::of_chain(b"nothing"), None);
    }

    #[test]
    fn an_expiring_or_expired_certificate_is_reported() {
        let of = |from_secs: u64, until_secs: u64| Certificate {
            from_secs,
            until_secs,
            names: vec![],
            renews_itself: false,
        };
        let renewed = |from_secs, until_secs| Certificate {
            renews_itself: true,
            ..of(from_secs, until_secs)
        };
        let days = |days: u64| days * DAY_SECS;
        for (certificate, term, word) in [
            (of(0, NOW_SECS + days(15)), Term::Good, ""),
            (of(0, NOW_SECS + days(13)), Term::EndsSoon, "13 days"),
            (of(0, NOW_SECS + days(1)), Term::EndsSoon, "24 hours"),
            (of(0, NOW_SECS), Term::Ended, "0 days ago"),
            (of(0, NOW_SECS - days(3)), Term::Ended, "3 days ago"),
            (
                of(NOW_SECS + 1, NOW_SECS + days(90)),
                Term::NotYet,
                "not good yet",
            ),
            (of(NOW_SECS, NOW_SECS + days(3)), Term::EndsSoon, "3 days"),
            // An ACME certificate of six days is renewed after about four.
            (
                renewed(NOW_SECS - days(2), NOW_SECS + days(4)),
                Term::Good,
                "",
            ),
            (
                renewed(NOW_SECS - days(5), NOW_SECS + days(1)),
                Term::EndsSoon,
                "renew",
            ),
        ] {
            assert_eq!(certificate.term(NOW_SECS), term, "{certificate:?}");
            let complaint = certificate.complaint(NOW_SECS).unwrap_or_default();
            assert!(complaint.contains(word), "{complaint}");
            assert_eq!(complaint.is_empty(), term == Term::Good);
        }
    }
}
