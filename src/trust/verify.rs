//! A peer's chain → [`Verified`] or [`TrustError`]: path, usage, names, pins, CRLs, at a time that is given (RFC 5280 6, RFC 9525).
//!
//! The one way to a [`Verified`]. rustls' verifiers (`tls::verifier`) call it during a full handshake; the connection
//! itself calls it after every handshake, resumed ones included, and again at each epoch.

#[cfg(test)]
mod bounds;
mod check;
mod path;
mod refusal;
#[cfg(test)]
mod tests;
pub(super) mod voucher;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor};

use super::cache::{ChainCache, ChainKey};
use super::crl::Crl;
use super::matched::{UsageFacts, UsageTracker};
use super::verdict::{PeerRole, TrustError, Verified};
use super::{Partners, Peer, Pin, PresentedChain, TrustFileFault, TrustName, TrustSettings};
use crate::pki::Certificate;

/// More certificates than this in one chain are refused unseen: webpki goes no deeper than six issuers, and trying every
/// order of a long list is work that an unknown client should not be able to cause.
const MAX_CHAIN_LENGTH: usize = 16;

/// How long a verdict is cached where CRLs are checked.
const CRL_RECHECK: Duration = Duration::from_mins(1);

/// What an epoch verifies with. Anchors, pins and CRLs are accepted together.
pub struct Trust {
    settings: TrustSettings,
    /// Four lists of one length: an anchor, the same for webpki, its `until`, and whether only the platform names it.
    anchors: Vec<Arc<Certificate>>,
    for_webpki: Vec<TrustAnchor<'static>>,
    until: Vec<Option<Timestamp>>,
    platform: Vec<bool>,
    /// The newest first.
    crls: Vec<Arc<Crl>>,
    /// CRL files that the settings name and that were never read.
    unread_crls: Vec<String>,
    /// Files that cannot be used now.
    faults: Vec<TrustFileFault>,
    /// For partners with expired certificates that are accepted for a while (`accept_expired_until`).
    partners: Arc<Partners>,
    matched: Arc<UsageTracker>,
    cache: ChainCache,
}

/// A trust anchor that is accepted, until a date if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AcceptedAnchor {
    pub(super) certificate: Arc<Certificate>,
    pub(super) until: Option<Timestamp>,
    /// No file names it: it is one of the platform's, and the operator does not renew it.
    pub(super) platform: bool,
}

impl AcceptedAnchor {
    fn end_time(&self) -> Timestamp {
        let not_after = self.certificate.validity().not_after;
        self.until.map_or(not_after, |until| until.min(not_after))
    }
}

impl Trust {
    pub(super) fn new(settings: TrustSettings, mut accepted: Vec<AcceptedAnchor>, mut crls: Vec<Arc<Crl>>) -> Self {
        // webpki takes the first anchor that fits: of an old and a renewed one with the same key, the one that lasts.
        accepted.sort_by_key(|anchor| std::cmp::Reverse(anchor.end_time()));
        crls.sort_by_key(|crl| std::cmp::Reverse(crl.this_update()));
        let mut trust = Self {
            settings,
            anchors: Vec::with_capacity(accepted.len()),
            for_webpki: Vec::with_capacity(accepted.len()),
            until: Vec::with_capacity(accepted.len()),
            platform: Vec::with_capacity(accepted.len()),
            crls,
            unread_crls: Vec::new(),
            faults: Vec::new(),
            partners: Arc::default(),
            matched: Arc::default(),
            cache: ChainCache::default(),
        };
        for AcceptedAnchor { certificate, until, platform } in accepted {
            let Ok(anchor) = webpki::anchor_from_trusted_cert(certificate.der()) else { continue };
            trust.for_webpki.push(anchor.to_owned());
            trust.anchors.push(certificate);
            trust.until.push(until);
            trust.platform.push(platform);
        }
        trust
    }
    pub(super) fn with_file_faults(mut self, faults: Vec<TrustFileFault>, unread_crls: Vec<String>) -> Self {
        (self.faults, self.unread_crls) = (faults, unread_crls);
        self
    }
    pub(super) fn with_partners(mut self, partners: Arc<Partners>, matched: Arc<UsageTracker>) -> Self {
        (self.partners, self.matched) = (partners, matched);
        self
    }
    /// Records that this peer was verified, and by which anchor and pin.
    pub fn record_verified(&self, peer: &Peer, now: Timestamp) {
        let of = (peer.identity(), peer.certificate().fingerprint());
        self.matched.record(peer.verified(), of, now);
    }
    /// Which anchor and pin last verified each peer, in this epoch and before.
    pub fn usage_facts(&self) -> UsageFacts {
        self.matched.facts()
    }
    /// Its name.
    pub fn name(&self) -> &TrustName {
        &self.settings.name
    }
    /// Its settings.
    pub fn settings(&self) -> &TrustSettings {
        &self.settings
    }
    /// Subjects (DER) of its anchors, each once: the list of certificate authorities to send (RFC 8446 4.2.4). None for
    /// `pin_only`.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        if self.settings.pin_only {
            return Vec::new();
        }
        let mut subjects: Vec<_> = self.anchors.iter().map(|anchor| anchor.subject_der().to_vec()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }
    /// Subjects of its anchors, printable, for explanations.
    pub fn anchor_subjects(&self) -> Vec<String> {
        self.anchors.iter().map(|anchor| anchor.subject().to_owned()).collect()
    }
    /// The anchors.
    pub fn anchors(&self) -> &[Arc<Certificate>] {
        &self.anchors
    }
    /// Whether the operator expects peers to be revocable. A keyring's own folder is searched for CRLs even if they
    /// are not configured.
    fn checks_crls(&self) -> bool {
        let settings = &self.settings;
        let own = settings.anchors.iter().any(|source| matches!(source, super::AnchorSource::Own(_)));
        settings.crl_required || !self.crls.is_empty() || !own && !settings.crls.is_empty()
    }
    /// What it holds, for views and the registry.
    pub fn view(&self) -> super::TrustContents {
        let each = self.anchors.iter().zip(&self.until).zip(&self.platform);
        let anchors = each.map(|((anchor, until), platform)| super::AnchorView {
            anchor: anchor.fingerprint(),
            subject: anchor.subject().to_owned(),
            validity: anchor.validity(),
            until: *until,
            platform: *platform,
            cannot_vouch: voucher::explain_unusable_key(anchor),
        });
        let crls = self.crls.iter().map(|crl| super::CrlView {
            issuer: crl.issuer().to_owned(),
            anchors: self
                .anchors
                .iter()
                .filter(|anchor| anchor.subject_der() == crl.issuer_der())
                .map(|anchor| anchor.fingerprint())
                .collect(),
            this_update: crl.this_update(),
            next_update: crl.next_update(),
            revoked: crl.revoked_count(),
        });
        super::TrustContents {
            name: Arc::clone(self.name()),
            anchors: anchors.collect(),
            pins: self.settings.pins.clone(),
            crls: crls.collect(),
            checks_crls: self.checks_crls(),
            stale_refuses: self.settings.crl_stale_refuses,
            faults: self.faults.clone(),
        }
    }
    /// Verifies a chain, end entity first, that was not hashed before.
    ///
    /// # Errors
    /// As [`Trust::verify_presented`].
    pub fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        role: &PeerRole,
        now: Timestamp,
    ) -> Result<Arc<Verified>, TrustError> {
        self.verify_presented(&chain.into(), role, now)
    }

    /// Verifies a chain, end entity first. Cached until the earliest end; the cache is bounded.
    ///
    /// # Errors
    /// Why it is not trusted.
    pub fn verify_presented(
        &self,
        chain: &PresentedChain,
        role: &PeerRole,
        now: Timestamp,
    ) -> Result<Arc<Verified>, TrustError> {
        if chain.is_empty() {
            return Err(TrustError::Empty);
        }
        if chain.len() > MAX_CHAIN_LENGTH {
            let why =
                format!("the chain has {} certificates; more than {MAX_CHAIN_LENGTH} are not accepted", chain.len());
            return Err(TrustError::Other { why });
        }
        let key = ChainKey::new(chain, role);
        // The verdict is that of this very chain, whatever its hash is said to be.
        if let Some(verified) = self.cache.find(&key, now).filter(|verified| *verified.presented == **chain) {
            return Ok(verified);
        }
        let end_entity = parse_certificate(&chain[0], 0)?;
        let mut verified = match self.verify_at(&end_entity, chain, role, &VerificationTime { now, lenient: false }) {
            Err(expired @ TrustError::Expired { .. }) if *role == PeerRole::Client && self.partners.is_lenient(now) => {
                self.verify_expired(&end_entity, chain, now).ok_or(expired)?
            }
            verdict => verdict?,
        };
        verified.presented = chain.clone();
        let verified = Arc::new(verified);
        let from = verified.path.iter().map(|certificate| certificate.validity().not_before).max();
        let mut until = verified.valid_until;
        if !self.crls.is_empty() {
            until = until.min(now.checked_add(CRL_RECHECK).unwrap_or(Timestamp::MAX));
        }
        self.cache.insert(key, &verified, from.unwrap_or(now), until);
        Ok(verified)
    }

    fn verify_at(
        &self,
        end_entity: &Arc<Certificate>,
        chain: &[CertificateDer<'static>],
        role: &PeerRole,
        terms: &VerificationTime,
    ) -> Result<Verified, TrustError> {
        if self.settings.pin_only {
            self.verify_pinned(end_entity, role, terms)
        } else {
            self.verify_chain(end_entity, chain, role, terms)
        }
    }

    /// Verifies an end entity with no fault but that it has expired, of a partner that may show such a one until
    /// a date.
    fn verify_expired(
        &self,
        end_entity: &Arc<Certificate>,
        chain: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Option<Verified> {
        let not_after = end_entity.validity().not_after;
        if now <= not_after {
            return None;
        }
        let mut verified =
            self.verify_at(end_entity, chain, &PeerRole::Client, &VerificationTime { now, lenient: true }).ok()?;
        verified.valid_until = verified.valid_until.min(self.partners.lenient_until(&verified, now)?);
        verified.expired = Some(not_after);
        Some(verified)
    }

    /// `pin_only`: the pinned key is the identity; no chain, and CA:TRUE or a signature of its own are fine.
    fn verify_pinned(
        &self,
        end_entity: &Arc<Certificate>,
        role: &PeerRole,
        terms: &VerificationTime,
    ) -> Result<Verified, TrustError> {
        let pin = self.find_pin(std::slice::from_ref(end_entity), terms.now)?;
        check::check_end_entity(end_entity)?;
        if !terms.lenient {
            check::check_validity(end_entity, terms.now)?;
        }
        let usage = end_entity.usage();
        let (allowed, needed) = match role {
            PeerRole::Client => (usage.client || !self.settings.client_eku_required, "clientAuth"),
            PeerRole::ServerName(_) | PeerRole::ServerUri(_) => (usage.server, "serverAuth"),
        };
        if !allowed {
            return Err(TrustError::WrongUsage { subject: end_entity.subject().to_owned(), needed });
        }
        // A self-signed certificate often has no name at all; where it has some, they must fit as anywhere.
        if !check::san_names(end_entity).is_empty() {
            check_name(end_entity, role)?;
        }
        let valid_until = terms.end_entity_expiry(end_entity).into_iter().chain(pin.and_then(|pin| pin.until)).min();
        Ok(Verified {
            path: vec![Arc::clone(end_entity)],
            anchor: None,
            pin: pin.map(|pin| pin.spki),
            valid_until: valid_until.unwrap_or(Timestamp::MAX),
            expired: None,
            presented: PresentedChain::default(),
        })
    }

    /// The longest-lived pin that is on the path; `None` where the trust has no pins.
    fn find_pin(&self, path: &[Arc<Certificate>], now: Timestamp) -> Result<Option<Pin>, TrustError> {
        let pins = &self.settings.pins;
        if pins.is_empty() && !self.settings.pin_only {
            return Ok(None);
        }
        let end = |pin: &Pin| pin.until.unwrap_or(Timestamp::MAX);
        let matching = pins.iter().filter(|pin| now < end(pin));
        let matching = matching.filter(|pin| path.iter().any(|certificate| certificate.spki_hash() == pin.spki));
        match matching.max_by_key(|pin| end(pin)) {
            Some(pin) => Ok(Some(*pin)),
            None => Err(TrustError::NoPin { trust: Arc::clone(self.name()), spki: path[0].spki_hash() }),
        }
    }
}

/// At what time a chain is verified.
struct VerificationTime {
    now: Timestamp,
    /// The end entity's own end does not count; that of everything above it does.
    lenient: bool,
}

impl VerificationTime {
    /// When the end entity ends, if that counts.
    fn end_entity_expiry(&self, end_entity: &Certificate) -> Option<Timestamp> {
        (!self.lenient).then(|| end_entity.validity().not_after)
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Trust({})", self.settings.name)
    }
}

fn parse_certificate(der: &CertificateDer<'_>, index: usize) -> Result<Arc<Certificate>, TrustError> {
    let der = der.clone().into_owned();
    Certificate::parse(der).map_err(|error| TrustError::Malformed { index, why: error.why })
}

/// Whether the certificate has the name that the role asks for (RFC 9525: SAN only).
fn check_name(certificate: &Certificate, role: &PeerRole) -> Result<(), TrustError> {
    let (fits, expected) = match role {
        PeerRole::Client => return Ok(()),
        PeerRole::ServerName(name) => {
            let fits = ServerName::try_from(&**name).is_ok_and(|name| {
                webpki::EndEntityCert::try_from(certificate.der())
                    .is_ok_and(|parsed| parsed.verify_is_valid_for_subject_name(&name).is_ok())
            });
            (fits, name)
        }
        // Exactly one (X.509-SVID 2): with several, which one is meant would be the reader's guess.
        PeerRole::ServerUri(uri) => (matches!(certificate.uris(), [only] if **only == **uri), uri),
    };
    if fits {
        return Ok(());
    }
    Err(TrustError::WrongName { expected: expected.to_string(), has: check::san_names(certificate) })
}
