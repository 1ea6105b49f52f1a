//! One table of names that a peer's certificate must have: in `allow`, in a rule, in a partner's `peers`.

use std::sync::Arc;

use super::allow::pattern;
use crate::pki::{Certificate, Fingerprint, SpkiHash};

/// One table of `allow` (its fields are ANDed). Patterns: `*` matches within one DNS label or URI segment, `**` the rest.
///
/// Only `uri` and `dns` are patterns; the other fields are compared whole. A table without fields matches no peer: it
/// is a mistake, not a permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMatcher {
    /// A URI SAN.
    pub uri: Option<String>,
    /// A DNS SAN.
    pub dns: Option<String>,
    /// The subject's common name.
    pub cn: Option<String>,
    /// An organizational unit of the subject.
    pub ou: Option<String>,
    /// An organization of the subject.
    pub o: Option<String>,
    /// An e-mail SAN.
    pub email: Option<String>,
    /// The end entity's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The end entity's key.
    pub spki: Option<SpkiHash>,
    /// The end entity's issuer, as printed.
    pub issuer: Option<String>,
    /// The partner it is.
    pub partner: Option<Arc<str>>,
    /// Any client, also without a certificate (`client_auth = "optional"`).
    pub anonymous: bool,
}

impl PeerMatcher {
    /// Whether it names one certificate or key, which no other peer can have.
    pub fn is_exact(&self) -> bool {
        self.fingerprint.is_some() || self.spki.is_some()
    }

    /// Whether a certificate fits every field that is set, `partner` and `anonymous` left aside: what makes a peer a
    /// partner cannot ask which partner it is. False where no field but these is set.
    pub fn matches_certificate(&self, certificate: &Certificate) -> bool {
        self.names_certificate() && self.fits_certificate(certificate)
    }

    /// Whether a field is set that only a certificate can fit.
    pub(super) fn names_certificate(&self) -> bool {
        let texts = [&self.uri, &self.dns, &self.cn, &self.ou, &self.o, &self.email, &self.issuer];
        texts.iter().any(|text| text.is_some()) || self.fingerprint.is_some() || self.spki.is_some()
    }

    pub(super) fn fits_certificate(&self, certificate: &Certificate) -> bool {
        fn fits_field<T: ?Sized>(wanted: Option<&T>, has: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(has)
        }
        fits_field(self.uri.as_deref(), |wanted| matches_any_uri(wanted, certificate.uris()))
            && fits_field(self.dns.as_deref(), |wanted| {
                certificate.dns_names().iter().any(|name| pattern::matches_dns(wanted, name))
            })
            && fits_field(self.cn.as_deref(), |wanted| certificate.common_name() == Some(wanted))
            && fits_field(self.ou.as_deref(), |wanted| certificate.units().iter().any(|name| name == wanted))
            && fits_field(self.o.as_deref(), |wanted| certificate.organizations().iter().any(|name| name == wanted))
            && fits_field(self.email.as_deref(), |wanted| {
                certificate.emails().iter().any(|name| pattern::matches_email(wanted, name))
            })
            && fits_field(self.fingerprint.as_ref(), |wanted| certificate.fingerprint() == *wanted)
            && fits_field(self.spki.as_ref(), |wanted| certificate.spki_hash() == *wanted)
            && fits_field(self.issuer.as_deref(), |wanted| certificate.issuer() == wanted)
    }
}

/// A certificate with several URI names has no SPIFFE identity (X.509-SVID 2), so none of them fits a SPIFFE pattern.
fn matches_any_uri(wanted: &str, names: &[String]) -> bool {
    if wanted.starts_with("spiffe:") && names.len() != 1 {
        return false;
    }
    names.iter().any(|name| pattern::matches_uri(wanted, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_patterns_want_exactly_one_uri() {
        let names = ["spiffe://a.example/x".to_owned(), "https://a.example/".to_owned()];
        assert!(!matches_any_uri("spiffe://a.example/**", &names));
        assert!(matches_any_uri("spiffe://a.example/**", &names[..1]));
        assert!(matches_any_uri("https://a.example/", &names));
    }

    fn certificate() -> Arc<Certificate> {
        use rustls_pki_types::pem::PemObject;

        use crate::pki::issue::{IssueRequest, NewKeyKind, self_signed};
        let validity = crate::pki::Validity {
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2036-01-01T00:00:00Z".parse().unwrap(),
        };
        let request = IssueRequest {
            common_name: "ops.example".into(),
            organization: Some("Acme".into()),
            dns: vec!["etl.acme.example".into()],
            uris: vec!["spiffe://acme.example/ns/a".into()],
            ips: Vec::new(),
            server: false,
            client: true,
            validity,
            key: NewKeyKind::P256,
        };
        let issued = self_signed(&request).unwrap();
        let der = rustls_pki_types::CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        Certificate::parse(der).unwrap()
    }

    #[test]
    fn the_fields_of_a_table_are_anded_and_names_are_typed() {
        let certificate = certificate();
        let fits = |change: fn(&mut PeerMatcher)| {
            let mut matcher = PeerMatcher { dns: Some("*.acme.example".into()), ..PeerMatcher::default() };
            change(&mut matcher);
            matcher.matches_certificate(&certificate)
        };
        assert!(fits(|_| {}));
        assert!(fits(|matcher| matcher.o = Some("Acme".into())));
        assert!(fits(|matcher| matcher.uri = Some("spiffe://acme.example/**".into())));
        assert!(fits(|matcher| matcher.cn = Some("ops.example".into())));
        assert!(!fits(|matcher| matcher.o = Some("Acm*".into())));
        assert!(!fits(|matcher| matcher.ou = Some("Acme".into())));
        assert!(!fits(|matcher| matcher.fingerprint = Some(Fingerprint::of(b"another"))));
        // A common name is never a DNS name, nor the other way round.
        assert!(!fits(|matcher| matcher.dns = Some("ops.example".into())));
        assert!(!fits(|matcher| matcher.cn = Some("etl.acme.example".into())));
        let exact = PeerMatcher {
            fingerprint: Some(certificate.fingerprint()),
            spki: Some(certificate.spki_hash()),
            issuer: Some(certificate.issuer().to_owned()),
            ..PeerMatcher::default()
        };
        assert!(exact.matches_certificate(&certificate));
    }

    #[test]
    fn a_table_without_a_field_of_a_certificate_fits_no_certificate() {
        let certificate = certificate();
        assert!(!PeerMatcher::default().matches_certificate(&certificate));
        assert!(
            !PeerMatcher { partner: Some("acme".into()), anonymous: true, ..PeerMatcher::default() }
                .matches_certificate(&certificate)
        );
    }
}
