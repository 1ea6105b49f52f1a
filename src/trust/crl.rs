//! Certificate revocation lists: their issuers, what they cover, and when the next one is due (RFC 5280 5).
//!
//! webpki parses and refuses what it does not support (delta, indirect, partitioned by reason). The look-up is ours, since
//! webpki takes the first list with the issuer's *name*: two issuers of one name, the old and the new key of a CA, would
//! then refuse each other's peers, and it hashes the whole list for every chain.

use std::fmt;
use std::ops::Range;

use jiff::Timestamp;
use rustls_pki_types::{CertificateRevocationListDer, SubjectPublicKeyInfoDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::verdict::describe_error;
use crate::pki::{crl_profile, printable};

/// A fully parsed CRL.
pub(super) struct Crl {
    der: CertificateRevocationListDer<'static>,
    list: CertRevocationList<'static>,
    issuer: String,
    issuer_der: Vec<u8>,
    this_update: Timestamp,
    next_update: Timestamp,
    revoked: usize,
    scope: CrlScope,
    signed: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
}

/// What an issuing distribution point leaves out (RFC 5280 5.2.5).
#[derive(Default)]
struct CrlScope {
    limited: bool,
    end_entities_only: bool,
    issuers_only: bool,
    points: Vec<Vec<u8>>,
}

impl Crl {
    /// Parses a list. The error is a sentence for the log.
    pub(super) fn parse(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let completed = crl_profile::complete_list(&der);
        let list = OwnedCertRevocationList::from_der(completed.as_deref().unwrap_or(&der))
            .map_err(|error| format!("invalid CRL: {}", describe_error(&error)))?;
        let list = CertRevocationList::from(list);
        let frame = CrlLayout::read(&der).ok_or("invalid CRL: its header does not parse")?;
        let scope = list.issuing_distribution_point().map(CrlScope::read).unwrap_or_default();
        let CrlLayout { issuer, issuer_der, this_update, next_update, revoked, signed, algorithm, signature } = frame;
        Ok(Self {
            der,
            list,
            issuer,
            issuer_der,
            this_update,
            next_update,
            revoked,
            scope,
            signed,
            algorithm,
            signature,
        })
    }

    /// Whether it was made from these bytes.
    pub(super) fn is_from_der(&self, der: &CertificateRevocationListDer<'_>) -> bool {
        self.der == *der
    }

    /// Its issuer, printable.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its issuer's name, DER.
    pub(super) fn issuer_der(&self) -> &[u8] {
        &self.issuer_der
    }

    /// When it was made.
    pub(super) fn this_update(&self) -> Timestamp {
        self.this_update
    }

    /// When the next one is due at the latest.
    pub(super) fn next_update(&self) -> Timestamp {
        self.next_update
    }

    /// How many certificates it revokes.
    pub(super) fn revoked_count(&self) -> usize {
        self.revoked
    }

    /// Whether the key of this SubjectPublicKeyInfo signed it. Reads the whole list.
    pub(super) fn is_signed_by(&self, spki: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&spki) else {
            return false;
        };
        let algorithm = &self.der[self.algorithm.clone()];
        webpki::ALL_VERIFICATION_ALGS.iter().filter(|candidate| candidate.signature_alg_id().as_ref() == algorithm).any(
            |candidate| {
                key.verify_signature(*candidate, &self.der[self.signed.clone()], &self.der[self.signature.clone()])
                    .is_ok()
            },
        )
    }

    /// Whether it speaks for this certificate: same issuer name, and within the scope (as webpki decides it).
    pub(super) fn covers(&self, certificate: &webpki::Cert<'_>, is_end_entity: bool) -> bool {
        self.list.issuer() == certificate.issuer() && self.scope.includes(certificate, is_end_entity)
    }

    /// When it revoked the certificate; `None`: it does not list it.
    pub(super) fn revocation_date(&self, certificate: &webpki::Cert<'_>) -> Option<Timestamp> {
        // An error would mean an unreadable list; it was fully read when it was parsed. Refusing is the safe choice.
        let entry = self.list.find_serial(certificate.serial()).transpose()?;
        let second = entry.ok().and_then(|entry| i64::try_from(entry.revocation_date.as_secs()).ok());
        Some(second.and_then(|second| Timestamp::from_second(second).ok()).unwrap_or(self.this_update))
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Crl({}, {})", self.issuer, self.this_update)
    }
}

impl CrlScope {
    fn read(value: &[u8]) -> Self {
        let mut scope = Self { limited: true, ..Self::default() };
        // webpki hands out the SEQUENCE with or without its header, depending on how it keeps the list.
        let fields = match Any::from_der(value) {
            Ok((rest, any)) if rest.is_empty() && any.tag().0 == 16 => any.data,
            _ => value,
        };
        for field in elements(fields) {
            match field.tag().0 {
                // distributionPoint, of which fullName [0] is a list of names; a URI is [6].
                0 => {
                    let names = elements(field.data).filter(|name| name.tag().0 == 0);
                    let uris = names.flat_map(|names| elements(names.data)).filter(|name| name.tag().0 == 6);
                    scope.points.extend(uris.map(|uri| uri.data.to_vec()));
                }
                1 => scope.end_entities_only = is_true(field.data),
                2 => scope.issuers_only = is_true(field.data),
                _ => {}
            }
        }
        scope
    }

    fn includes(&self, certificate: &webpki::Cert<'_>, is_end_entity: bool) -> bool {
        if !self.limited {
            return true;
        }
        if self.end_entities_only && !is_end_entity || self.issuers_only && is_end_entity {
            return false;
        }
        let der = certificate.der();
        let Ok((_, parsed)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let mut names_points = false;
        let mut named = Vec::new();
        for extension in parsed.extensions() {
            let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else { continue };
            names_points = true;
            for point in points.iter().filter(|point| point.crl_issuer.is_none() && point.reasons.is_none()) {
                if let Some(DistributionPointName::FullName(names)) = &point.distribution_point {
                    named.extend(names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some(uri.as_bytes()),
                        _ => None,
                    }));
                }
            }
        }
        !names_points || named.iter().any(|uri| self.points.iter().any(|point| point == uri))
    }
}

/// The head of a CRL and where its parts lie; of the list itself only how long it is.
struct CrlLayout {
    issuer: String,
    issuer_der: Vec<u8>,
    this_update: Timestamp,
    next_update: Timestamp,
    revoked: usize,
    signed: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
}

impl CrlLayout {
    fn read(der: &[u8]) -> Option<Self> {
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - der.as_ptr() as usize;
            start..start + part.len()
        };
        let (_, outer) = Any::from_der(der).ok()?;
        let (rest, tbs) = Any::from_der(outer.data).ok()?;
        let signed = place(&outer.data[..outer.data.len() - rest.len()]);
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = Any::from_der(rest).ok()?;

        let mut head = tbs.data;
        let (after, version) = Any::from_der(head).ok()?;
        if version.tag().0 == 2 {
            head = after;
        }
        let (head, _algorithm) = Any::from_der(head).ok()?;
        let (head, issuer) = X509Name::from_der(head).ok()?;
        let (head, this_update) = ASN1Time::from_der(head).ok()?;
        let (head, next_update) = match Any::from_der(head) {
            Ok((after, next)) if u8::try_from(next.tag().0).is_ok_and(crl_profile::is_time) => {
                (after, Some(ASN1Time::from_der(head).ok()?.1))
            }
            _ => (head, None),
        };
        // Absent where nothing is revoked (RFC 5280 5.1.2.6).
        let listed = Any::from_der(head).ok().filter(|(_, list)| list.tag().0 == 16);
        Some(Self {
            issuer: printable(&issuer.to_string()),
            issuer_der: issuer.as_raw().to_vec(),
            this_update: Timestamp::from_second(this_update.timestamp()).ok()?,
            next_update: next_update
                .and_then(|next| Timestamp::from_second(next.timestamp()).ok())
                .unwrap_or(Timestamp::MAX),
            revoked: listed.map_or(0, |(_, list)| elements(list.data).count()),
            signed,
            algorithm: place(algorithm.data),
            signature: place(signature.data.strip_prefix(&[0])?),
        })
    }
}

fn elements(mut bytes: &[u8]) -> impl Iterator<Item = Any<'_>> {
    std::iter::from_fn(move || {
        let (rest, element) = Any::from_der(bytes).ok()?;
        bytes = rest;
        Some(element)
    })
}

fn is_true(content: &[u8]) -> bool {
    content.first().is_some_and(|byte| *byte != 0)
}
