//! Why a chain is not trusted: webpki's errors made into [`Untrusted`] with the values that an operator needs.
//!
//! webpki says *what* is wrong and not *with which certificate*; that is found here, among the certificates that were sent.

use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use webpki::Error;

use super::{Role, Trust, Untrusted};
use crate::pki::Certificate;

/// Names of a certificate, or anchors of a trust, that one refusal lists.
const LISTED: usize = 8;

/// Refuses what cannot be a peer's own certificate: TLS takes X.509 version 3 only (RFC 8446 4.4.2.2), whichever anchor
/// vouches for it. Refuses weak keys and signatures too.
pub(super) fn own(certificate: &Certificate) -> Result<(), Untrusted> {
    let version = certificate.version();
    if version == 3 {
        return strong(certificate);
    }
    let why = format!("it is an X.509 v{version} certificate, and TLS takes only version 3 (RFC 8446 4.4.2.2)");
    Err(Untrusted::NotAnEndEntity { subject: certificate.subject().to_owned(), why })
}

/// Refuses anchors with a weak key. Their version and signature say nothing: an anchor is a name and a key (RFC 5280 6.1.1).
pub(super) fn strong_anchor(anchor: &Certificate) -> Result<(), Untrusted> {
    match anchor.key_weakness() {
        Some(why) => Err(Untrusted::Weak { subject: anchor.subject().to_owned(), why }),
        None => Ok(()),
    }
}

/// Refuses weak keys and signatures.
pub(super) fn strong(certificate: &Certificate) -> Result<(), Untrusted> {
    match certificate.weakness() {
        Some(why) => Err(Untrusted::Weak { subject: certificate.subject().to_owned(), why: why.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses what is not valid at `now`.
pub(super) fn valid(certificate: &Certificate, now: Timestamp) -> Result<(), Untrusted> {
    let subject = || certificate.subject().to_owned();
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(Untrusted::NotYetValid { subject: subject(), not_before: validity.not_before });
    }
    if now > validity.not_after {
        return Err(Untrusted::Expired { subject: subject(), not_after: validity.not_after });
    }
    Ok(())
}

/// The names in the SAN as `dns:…`, `ip:…`, `uri:…`; bounded.
pub(super) fn names(certificate: &Certificate) -> Vec<String> {
    let dns = certificate.dns_names().iter().map(|name| format!("dns:{name}"));
    let ips = certificate.ips().iter().map(|ip| format!("ip:{ip}"));
    let uris = certificate.uris().iter().map(|uri| format!("uri:{uri}"));
    listed(dns.chain(ips).chain(uris))
}

/// At most [`LISTED`] of them, and how many more there are.
fn listed(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut items = items.fuse();
    let mut out: Vec<String> = items.by_ref().take(LISTED).collect();
    let more = items.count();
    if more > 0 {
        out.push(format!("and {more} more"));
    }
    out
}

/// `CaUsedAsEndEntity` as "ca used as end entity", without the values that some variants print at length.
pub(in super::super) fn words(error: &Error) -> String {
    let debug = format!("{error:?}");
    let name = debug.split([' ', '(', '{']).next().unwrap_or_default();
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.trim_end_matches("Context").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

impl Trust {
    pub(super) fn unknown_issuer(&self, end_entity: &Certificate, sent: &[Arc<Certificate>]) -> Untrusted {
        // Follow the issuers as far as they were sent.
        let mut last = end_entity;
        for _ in 0..sent.len() {
            let issuer = sent.iter().find(|other| other.subject_der() == last.issuer_der() && ***other != *last);
            let Some(issuer) = issuer else { break };
            last = issuer;
        }
        Untrusted::UnknownIssuer {
            issuer: last.issuer().to_owned(),
            trust: Arc::clone(self.name()),
            holds: listed(self.anchors.iter().map(|anchor| anchor.subject().to_owned())),
            self_signed: end_entity.is_self_issued(),
        }
    }

    pub(super) fn refusal(
        &self,
        error: &Error,
        end_entity: &Arc<Certificate>,
        chain: &[CertificateDer<'static>],
        role: &Role,
        now: Timestamp,
    ) -> Untrusted {
        let others = chain[1..].iter().filter_map(|der| Certificate::parse(der.clone()).ok());
        let sent: Vec<_> = std::iter::once(Arc::clone(end_entity)).chain(others).collect();
        let first = |is: &dyn Fn(&Certificate) -> bool| sent.iter().find(|one| is(one)).unwrap_or(end_entity);
        match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
                let whose = first(&|one| !one.validity().contains(now));
                valid(whose, now).err().unwrap_or_else(|| other(error))
            }
            Error::UnknownIssuer => self.unknown_issuer(end_entity, &sent),
            Error::InvalidSignatureForPublicKey
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::UnsupportedSignatureAlgorithmContext(_) => self.bad_signature(error, &sent),
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                let client = *role == Role::Client;
                let allows = |one: &Certificate| if client { one.usage().client } else { one.usage().server };
                Untrusted::WrongUsage {
                    subject: first(&|one| !allows(one)).subject().to_owned(),
                    needed: if client { "clientAuth" } else { "serverAuth" },
                }
            }
            Error::CaUsedAsEndEntity => Untrusted::NotAnEndEntity {
                subject: end_entity.subject().to_owned(),
                why: "its basic constraints have CA:TRUE".to_owned(),
            },
            Error::UnsupportedCertVersion => Untrusted::NotAnEndEntity {
                subject: end_entity.subject().to_owned(),
                why: "it is not X.509 version 3".to_owned(),
            },
            Error::BadDer
            | Error::BadDerTime
            | Error::ExtensionValueInvalid
            | Error::InvalidCertValidity
            | Error::InvalidSerialNumber
            | Error::MalformedExtensions
            | Error::MalformedDnsIdentifier
            | Error::SignatureAlgorithmMismatch
            | Error::TrailingData(_) => Untrusted::Malformed { index: 0, why: words(error) },
            _ => other(error),
        }
    }

    /// A signature that does not verify: weak where one of the keys or signatures is, else the issuer has another key.
    fn bad_signature(&self, error: &Error, sent: &[Arc<Certificate>]) -> Untrusted {
        let issuers = |one: &Certificate| {
            let issuer = one.issuer_der().to_vec();
            let sent_along = sent.iter().filter(|other| !other.is_self_issued());
            self.anchors.iter().chain(sent_along).find(move |other| other.subject_der() == issuer)
        };
        let weak = sent.iter().find_map(|one| strong(one).err().or_else(|| strong(issuers(one)?).err()));
        if let Some(weak) = weak {
            return weak;
        }
        if matches!(error, Error::UnsupportedSignatureAlgorithmContext(_)) {
            return other(error);
        }
        let forged = sent.iter().find(|one| issuers(one).is_some_and(|issuer| !one.is_issued_by(issuer)));
        let whose = forged.unwrap_or(&sent[0]);
        Untrusted::BadSignature { subject: whose.subject().to_owned(), issuer: whose.issuer().to_owned() }
    }
}

fn other(error: &Error) -> Untrusted {
    Untrusted::Other { why: format!("path validation (RFC 5280 6) failed: {}", words(error)) }
}
