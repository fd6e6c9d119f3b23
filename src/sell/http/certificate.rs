//! Reads a certificate's validity period and DNS names.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::tls::TlsSource;

/// The longest time before expiry at which a certificate counts as due for renewal. ACME clients
/// renew a month before expiry.
const SOON_SECS: u64 = 14 * DAY_SECS;

/// A certificate with a shorter lifetime is due for renewal in the last fifth of it.
const SOON_PART: u64 = 5;
/// A certificate is due for renewal at least a week before expiry, unless this program renews it
/// itself.
const SOON_MIN_SECS: u64 = 7 * DAY_SECS;

const DAY_SECS: u64 = 86_400;

/// The largest certificate file to read; a chain has about 10 KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The prefix of the ACME cache's certificate files.
const CACHED: &str = "cached_cert_";

/// A certificate's validity period and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Start of validity, Unix seconds.
    pub from_secs: u64,
    /// End of validity, Unix seconds.
    pub until_secs: u64,
    /// The DNS names.
    pub names: Vec<String>,
    /// Whether Tollhouse renews the certificate itself.
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
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        // A date before 1970 becomes 1970: the certificate has expired either way.
        let secs = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        let extension = certificate.subject_alternative_name().ok().flatten();
        let names = extension.map_or_else(Vec::new, |names| {
            let names = names.value.general_names.iter();
            let names = names.filter_map(|name| {
                let GeneralName::DNSName(name) = name else {
                    return None;
                };
                Some((*name).to_owned())
            });
            names.collect()
        });
        Some(Self {
            from_secs: secs(validity.not_before),
            until_secs: secs(validity.not_after),
            names,
            renews_itself: false,
        })
    }

    /// Parses a PEM chain: the names of the first certificate, and the period in which all
    /// certificates are valid.
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

    /// Describes the state as a sentence; `None` if the certificate is good.
    pub fn complaint(&self, now_secs: u64) -> Option<String> {
        let left_secs = self.until_secs.saturating_sub(now_secs);
        match self.term(now_secs) {
            Term::Good => None,
            Term::EndsSoon if left_secs < 2 * DAY_SECS => Some(format!(
                "the certificate expires in {} hours: renew it",
                left_secs / 3_600
            )),
            Term::EndsSoon => Some(format!(
                "the certificate expires in {} days: renew it",
                left_secs / DAY_SECS
            )),
            Term::Ended => Some(format!(
                "the certificate expired {} days ago, and clients reject it: renew it",
                now_secs.saturating_sub(self.until_secs) / DAY_SECS
            )),
            Term::NotYet => Some(
                "the certificate is not valid yet, and clients reject it: check the clock of this machine"
                    .to_owned(),
            ),
        }
    }
}

impl TlsSource {
    /// The certificate that is on disk now. `None` if the authority has not issued one yet, or if
    /// the file cannot be read, which is reported elsewhere.
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
                // The cache may also hold older certificates for other names or from another
                // authority.
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

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
        assert_eq!(read.from_secs, 1_735_776_000);
        assert_eq!(read.until_secs, 2_561_500_800);
        assert_eq!(read.names, ["shop.example", "*.b.example"]);
        assert_eq!(Certificate::of_chain(pem.as_bytes()), Some(read));
        // An intermediate that expires sooner limits the chain.
        let (_, above) = certificate((2024, 1, 1), (2030, 1, 1), &[]);
        let chain = Certificate::of_chain(format!("{pem}{above}").as_bytes()).unwrap();
        assert_eq!(chain.until_secs, 1_893_456_000);
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
                "not valid yet",
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
