//! The path from an end entity to an anchor: webpki builds and checks it, and every candidate is then weighed here for
//! what webpki does not look at: the anchor's own validity and `until`, weak links, pins, and CRLs by the issuer's key.

use std::cell::RefCell;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage, VerifiedPath};

use super::{Trust, VerificationTime, check, check_name, parse_certificate};
use crate::pki::{Certificate, SpkiHash};
use crate::trust::PresentedChain;
use crate::trust::verdict::{PeerRole, TrustError, Verified};

/// 1.3.6.1.5.5.7.3.1, .2 and 2.5.29.37.0 (RFC 5280 4.2.1.12).
const SERVER_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]);
const CLIENT_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]);
const ANY_USAGE: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0x00]);

/// What an extended key usage, where there is one, must allow; `None` = it is not looked at.
struct RequiredUsage(Option<KeyPurposeId<'static>>);

impl ExtendedKeyUsageValidator for RequiredUsage {
    fn validate(&self, mut presented: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let Some(wanted) = self.0 else { return Ok(()) };
        let Some(first) = presented.next() else { return Ok(()) };
        for id in std::iter::once(first).chain(presented) {
            let id = id?;
            if id == wanted || id == ANY_USAGE {
                return Ok(());
            }
        }
        let required = if wanted == CLIENT_AUTH { KeyUsage::client_auth() } else { KeyUsage::server_auth() };
        Err(Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext { required, present: Vec::new() }))
    }
}

impl Trust {
    pub(super) fn verify_chain(
        &self,
        end_entity: &Arc<Certificate>,
        chain: &[CertificateDer<'static>],
        role: &PeerRole,
        terms: &VerificationTime,
    ) -> Result<Verified, TrustError> {
        let now = terms.now;
        check::check_end_entity(end_entity)?;
        let purpose = RequiredUsage(match role {
            PeerRole::Client => self.settings.client_eku_required.then_some(CLIENT_AUTH),
            PeerRole::ServerName(_) | PeerRole::ServerUri(_) => Some(SERVER_AUTH),
        });
        // webpki knows one time for all: where the end entity's end does not count it looks at its last moment, and what is
        // above it is looked at again below.
        let at = if terms.lenient { end_entity.validity().not_after } else { now };
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second().try_into().unwrap_or(0)));
        // The first objection is reported: webpki goes on to other candidates, and ends with an error of its own.
        let verdict: RefCell<Option<Result<Verified, TrustError>>> = RefCell::new(None);
        let weigh = |candidate: &VerifiedPath<'_>| {
            let weighed = self.check_candidate(end_entity, candidate, chain, terms);
            let passes = weighed.is_ok();
            let mut verdict = verdict.borrow_mut();
            if passes || verdict.is_none() {
                *verdict = Some(weighed);
            }
            if passes { Ok(()) } else { Err(Error::CertDistrusted) }
        };
        let outcome = EndEntityCert::try_from(&chain[0]).and_then(|parsed| {
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            parsed
                .verify_for_usage(algorithms, &self.for_webpki, &chain[1..], time, purpose, None, Some(&weigh))
                .map(|_| ())
        });
        match (verdict.into_inner(), outcome) {
            (Some(Ok(verified)), Ok(())) => {
                check_name(end_entity, role)?;
                Ok(verified)
            }
            (Some(Err(untrusted)), Err(_)) => Err(untrusted),
            (_, outcome) => {
                let error = outcome.err().unwrap_or(Error::UnknownIssuer);
                Err(self.explain_refusal(&error, end_entity, chain, role, now))
            }
        }
    }

    /// Checks a path that webpki accepts against our own rules.
    fn check_candidate(
        &self,
        end_entity: &Arc<Certificate>,
        candidate: &VerifiedPath<'_>,
        chain: &[CertificateDer<'static>],
        terms: &VerificationTime,
    ) -> Result<Verified, TrustError> {
        let now = terms.now;
        let mut path = vec![Arc::clone(end_entity)];
        for issuer in candidate.intermediate_certificates() {
            let der = issuer.der();
            let index = chain.iter().position(|sent| *sent == der).unwrap_or_default();
            let certificate = parse_certificate(&der, index)?;
            check::check_strength(&certificate)?;
            check::check_validity(&certificate, now)?;
            path.push(certificate);
        }
        let place = self.for_webpki.iter().position(|anchor| std::ptr::eq(anchor, candidate.anchor()));
        let Some((anchor, until)) = place.map(|place| (&self.anchors[place], self.until[place])) else {
            return Err(self.explain_unknown_issuer(end_entity, &path));
        };
        if until.is_some_and(|until| until <= now) {
            return Err(self.explain_unknown_issuer(end_entity, &path));
        }
        check::check_anchor_strength(anchor)?;
        check::check_validity(anchor, now)?;
        let pin = self.find_pin(&path, now)?;
        self.check_revocation(candidate, &path, anchor, now)?;
        let ends = path[1..].iter().chain([anchor]).map(|certificate| certificate.validity().not_after);
        let ends = ends.chain(terms.end_entity_expiry(end_entity)).chain(until).chain(pin.and_then(|pin| pin.until));
        let valid_until = ends.min().unwrap_or(now);
        let anchor = Some((anchor.fingerprint(), anchor.subject().to_owned()));
        Ok(Verified {
            path,
            anchor,
            pin: pin.map(|pin| pin.spki),
            valid_until,
            expired: None,
            presented: PresentedChain::default(),
        })
    }

    /// RFC 5280 6.3: each certificate against the newest list that its issuer's key signed.
    fn check_revocation(
        &self,
        candidate: &VerifiedPath<'_>,
        path: &[Arc<Certificate>],
        anchor: &Arc<Certificate>,
        now: Timestamp,
    ) -> Result<(), TrustError> {
        if self.crls.is_empty() && !self.settings.crl_required && self.unread_crls.is_empty() {
            return Ok(());
        }
        let certificates =
            std::iter::once(&**candidate.end_entity()).chain(candidate.intermediate_certificates()).enumerate();
        let depth = if self.settings.crl_whole_chain { path.len() } else { 1 };
        for (index, certificate) in certificates.take(depth) {
            let issuer = path.get(index + 1).unwrap_or(anchor);
            let list = self
                .crls
                .iter()
                .enumerate()
                .find(|(number, crl)| crl.covers(certificate, index == 0) && self.is_crl_signer(*number, issuer));
            let subject = || path[index].subject().to_owned();
            if let Some(since) = list.and_then(|(_, crl)| crl.revocation_date(certificate)) {
                let serial = path[index].serial().to_owned();
                return Err(TrustError::Revoked { subject: subject(), serial, since });
            }
            match list {
                Some((_, crl)) if self.settings.crl_stale_refuses && crl.next_update() <= now => {
                    let why = format!("the CRL of \"{}\" was due for renewal by {}", crl.issuer(), crl.next_update());
                    return Err(TrustError::RevocationUnknown { subject: subject(), why });
                }
                None if let Some(unread) = self.unread_crls.first() => {
                    let why = format!(
                        "the trust names CRL file {unread}, which could not be read yet, and no other of its CRLs speaks \
                         for \"{}\"",
                        issuer.subject()
                    );
                    return Err(TrustError::RevocationUnknown { subject: subject(), why });
                }
                None if self.settings.crl_required => {
                    let why = format!("no CRL of \"{}\" was found, and crl_required requires one", issuer.subject());
                    return Err(TrustError::RevocationUnknown { subject: subject(), why });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_crl_signer(&self, crl: usize, issuer: &Certificate) -> bool {
        let key: SpkiHash = issuer.spki_hash();
        self.cache.is_signer(crl, key, || self.crls[crl].is_signed_by(issuer.spki()))
    }
}
