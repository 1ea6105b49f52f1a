//! Partners: configured names for groups of peers, bound to their own anchors or pins, so that one partner's CA cannot
//! mint another's names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use super::Pin;
use super::matcher::PeerMatcher;
use super::verdict::Verified;
use crate::keyring::ShowPolicy;
use crate::pki::{Fingerprint, SpkiHash};

/// The configuration of one partner (`[partner.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartnerSettings {
    /// Its name.
    pub name: Arc<str>,
    /// Anchor files under the watched folder: only paths that end at one of these can be this partner.
    pub anchors: Vec<PathBuf>,
    /// Or pins on the path.
    pub pins: Vec<Pin>,
    /// Which peers belong to it; empty = every peer that its anchors or pins verify.
    pub peers: Vec<PeerMatcher>,
    /// Where they connect from: identifies the partner before it has shown a certificate.
    pub sources: Vec<IpNet>,
    /// Which of our key pairs it is shown during an overlap.
    pub show: Option<KeyPairPreference>,
    /// Until when its peers may show expired certificates.
    pub accept_expired_until: Option<Timestamp>,
    /// How many connections it may have open, over all listeners.
    pub max_connections: Option<usize>,
    /// Contact details of the partner.
    pub contact: Option<String>,
}

/// `show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPairPreference {
    /// `"new_only"`: the current pair, even if the partner refused it.
    NewOnly,
    /// `{ old_until = DATE }`: the previous pair until then; from then on the general rule.
    OldUntil(Timestamp),
}

/// One partner with its anchors resolved.
#[derive(Clone, Debug)]
pub struct Partner {
    /// Its settings.
    pub settings: PartnerSettings,
    /// Fingerprints of its anchors.
    pub anchors: BTreeSet<Fingerprint>,
    /// Its pins that have not ended.
    pub pins: Vec<SpkiHash>,
}

/// All partners, in the order of the configuration: the first that matches wins.
#[derive(Clone, Debug, Default)]
pub struct Partners(pub Vec<Partner>);

impl Partners {
    /// The partner that a verified path belongs to.
    pub fn recognise(&self, verified: &Verified) -> Option<Arc<str>> {
        let partner = self.0.iter().find(|partner| partner.matches_path(verified))?;
        Some(Arc::clone(&partner.settings.name))
    }

    /// Whether any partner may show expired certificates now.
    pub(super) fn is_lenient(&self, now: Timestamp) -> bool {
        self.0.iter().any(|partner| partner.settings.accept_expired_until.is_some_and(|until| now < until))
    }

    /// Until when the partner of this path may show an expired certificate, if it may now.
    pub(super) fn lenient_until(&self, verified: &Verified, now: Timestamp) -> Option<Timestamp> {
        let partner = self.0.iter().find(|partner| partner.matches_path(verified))?;
        partner.settings.accept_expired_until.filter(|until| now < *until)
    }

    /// How many connections the partner of this name may have.
    pub fn max_connections(&self, name: &str) -> Option<usize> {
        self.0.iter().find(|partner| *partner.settings.name == *name)?.settings.max_connections
    }

    /// What a peer from this address is shown: from the first partner with such a source and a `show` that applies now.
    pub fn key_pair_to_show(&self, from: IpAddr, now: Timestamp) -> Option<ShowPolicy> {
        let from = from.to_canonical();
        let known = self.0.iter().filter(|partner| partner.settings.sources.iter().any(|net| net.contains(&from)));
        known.into_iter().find_map(|partner| match partner.settings.show? {
            KeyPairPreference::NewOnly => Some(ShowPolicy::New),
            KeyPairPreference::OldUntil(until) => (now < until).then_some(ShowPolicy::Old),
        })
    }
}

impl PartnerSettings {
    /// Whether it is bound to its own anchors, pins or exact certificates: any authority could issue mere names.
    pub fn is_bound(&self) -> bool {
        let exact = !self.peers.is_empty() && self.peers.iter().all(PeerMatcher::is_exact);
        exact || !self.anchors.is_empty() || !self.pins.is_empty()
    }

    /// Dates at which the partner changes.
    pub fn change_dates(&self) -> impl Iterator<Item = Timestamp> {
        self.pins.iter().filter_map(|pin| pin.until).chain(self.accept_expired_until)
    }
}

impl Partner {
    /// Resolved, as it is at `now`.
    pub fn new(settings: PartnerSettings, anchors: BTreeSet<Fingerprint>, now: Timestamp) -> Self {
        let pins = settings.pins.iter().filter(|pin| pin.until.is_none_or(|until| now < until));
        Self { pins: pins.map(|pin| pin.spki).collect(), anchors, settings }
    }

    fn matches_path(&self, verified: &Verified) -> bool {
        let peers = &self.settings.peers;
        // A partner bound to empty files, or not bound at all, matches no peer.
        let own = !self.settings.anchors.is_empty() || !self.settings.pins.is_empty();
        if own && !self.vouches_for(verified) || !self.settings.is_bound() {
            return false;
        }
        peers.is_empty() || peers.iter().any(|peer| peer.matches_certificate(&verified.path[0]))
    }

    fn vouches_for(&self, verified: &Verified) -> bool {
        let is_anchor = |fingerprint: &Fingerprint| self.anchors.contains(fingerprint);
        verified.anchor.as_ref().is_some_and(|(fingerprint, _)| is_anchor(fingerprint))
            || verified.path.iter().any(|certificate| {
                is_anchor(&certificate.fingerprint()) || self.pins.contains(&certificate.spki_hash())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::PeerRole;
    use crate::trust::sample::{TestAuthority, days_from_now, now, trust};

    fn test_partner(name: &str, anchor: Option<&TestAuthority>, dns: Option<&str>) -> Partner {
        let peers = dns.map(|dns| PeerMatcher { dns: Some(dns.to_owned()), ..PeerMatcher::default() });
        let settings = PartnerSettings {
            name: name.into(),
            anchors: anchor.iter().map(|_| PathBuf::from("trust/a.pem")).collect(),
            pins: Vec::new(),
            peers: peers.into_iter().collect(),
            sources: Vec::new(),
            show: None,
            accept_expired_until: None,
            max_connections: None,
            contact: None,
        };
        Partner::new(settings, anchor.iter().map(|ca| ca.certificate().fingerprint()).collect(), now())
    }

    fn recognise_peer(
        partners: Vec<Partner>,
        ca: &TestAuthority,
        anchor: &TestAuthority,
        name: &str,
    ) -> Option<Arc<str>> {
        let peer = ca.issue_peer(name, &|_| ());
        Partners(partners).recognise(&trust(&[anchor]).verify(&peer.chain, &PeerRole::Client, now()).unwrap())
    }

    #[test]
    fn one_partners_ca_cannot_mint_anothers_names() {
        let (acme, other) = (TestAuthority::new("Acme"), TestAuthority::new("Other"));
        let partners =
            || vec![test_partner("acme", Some(&acme), Some("*.acme.test")), test_partner("other", Some(&other), None)];
        assert_eq!(recognise_peer(partners(), &acme, &acme, "a.acme.test").as_deref(), Some("acme"));
        assert_eq!(recognise_peer(partners(), &acme, &acme, "a.test"), None);
        assert_eq!(recognise_peer(partners(), &other, &other, "a.acme.test").as_deref(), Some("other"));
    }

    #[test]
    fn an_intermediate_of_the_path_may_be_what_a_partner_is_bound_to() {
        let public = TestAuthority::new("Public");
        let (acme, other) = (public.issue_intermediate("Acme", &|_| ()), public.issue_intermediate("Other", &|_| ()));
        let partners = || vec![test_partner("acme", Some(&acme), None)];
        assert_eq!(recognise_peer(partners(), &acme, &public, "a.test").as_deref(), Some("acme"));
        assert_eq!(recognise_peer(partners(), &other, &public, "a.test"), None);
    }

    #[test]
    fn pins_bind_a_partner_too() {
        let ca = TestAuthority::new("CA");
        let pinned = |pin: Pin, at: Timestamp| {
            let mut settings = test_partner("acme", None, None).settings;
            settings.pins = vec![pin];
            Partners(vec![Partner::new(settings, BTreeSet::new(), at)])
        };
        let peer = ca.issue_peer("a.test", &|_| ());
        let verified = trust(&[&ca]).verify(&peer.chain, &PeerRole::Client, now()).unwrap();
        let recognised = |pin: Pin, at: Timestamp| pinned(pin, at).recognise(&verified).is_some();
        assert!(!recognised(ca.issue_peer("b.test", &|_| ()).pin(), now()));
        assert!(recognised(peer.pin(), now()));
        let dated = Pin { until: Some(days_from_now(2)), ..peer.pin() };
        assert!(recognised(dated, days_from_now(1)));
        assert!(!recognised(dated, days_from_now(2)), "its pin is over, and that does not make it known by nothing");
    }

    #[test]
    fn an_address_says_what_is_shown_before_a_certificate_does() {
        let show = |wish: KeyPairPreference, at: Timestamp, from: &str| {
            let mut settings = test_partner("acme", None, None).settings;
            (settings.show, settings.sources) = (Some(wish), vec!["192.0.2.0/24".parse().unwrap()]);
            Partners(vec![Partner::new(settings, BTreeSet::new(), at)]).key_pair_to_show(from.parse().unwrap(), at)
        };
        assert_eq!(show(KeyPairPreference::NewOnly, now(), "192.0.2.7"), Some(ShowPolicy::New));
        assert_eq!(show(KeyPairPreference::NewOnly, now(), "::ffff:192.0.2.7"), Some(ShowPolicy::New));
        assert_eq!(show(KeyPairPreference::NewOnly, now(), "192.0.3.7"), None);
        assert_eq!(show(KeyPairPreference::OldUntil(days_from_now(1)), now(), "192.0.2.7"), Some(ShowPolicy::Old));
        assert_eq!(show(KeyPairPreference::OldUntil(days_from_now(1)), days_from_now(1), "192.0.2.7"), None);
    }

    #[test]
    fn an_expired_certificate_is_accepted_only_from_its_partner_until_the_date() {
        use crate::trust::Anchors;
        use crate::trust::anchors::FoundAnchors;
        use crate::trust::{AnchorSource, TrustError};
        let (acme, other) = (TestAuthority::new("Acme"), TestAuthority::new("Other"));
        let expires = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2026, 11, 20);
        let source = AnchorSource::System;
        let settings = crate::trust::sample::settings(&|settings| settings.anchors = vec![AnchorSource::System]);
        let mut anchors = Anchors::open(settings, &Default::default(), &[]);
        let found = FoundAnchors::Certificates(vec![acme.certificate(), other.certificate()]);
        anchors.apply_sources(&[(source, found)].into(), &Default::default(), now());
        let mut lenient = test_partner("acme", Some(&acme), Some("*.acme.test")).settings;
        lenient.accept_expired_until = Some(days_from_now(3));
        let anchor = BTreeSet::from([acme.certificate().fingerprint()]);
        let partners = Arc::new(Partners(vec![Partner::new(lenient, anchor, now())]));
        let trust = anchors.build_with_partners(&partners, now());
        let verify = |peer: &crate::trust::sample::IssuedIdentity, at| trust.verify(&peer.chain, &PeerRole::Client, at);
        let refused = |verdict: Result<_, TrustError>| matches!(verdict, Err(TrustError::Expired { .. }));

        let late = acme.issue_peer("a.acme.test", &expires);
        let verified = verify(&late, now()).unwrap();
        assert_eq!(verified.valid_until, days_from_now(3));
        assert_eq!(verified.expired, Some(late.certificate().validity().not_after));
        assert!(refused(verify(&late, days_from_now(3))), "the date has come");
        assert!(refused(verify(&acme.issue_peer("a.test", &expires), now())), "not one of its peers");
        assert!(refused(verify(&other.issue_peer("a.acme.test", &expires), now())), "not by its anchor");
        assert_eq!(verify(&acme.issue_peer("b.acme.test", &|_| ()), now()).unwrap().expired, None);
        // An issuer that has expired is another matter.
        let below = acme.issue_intermediate("Old issuing CA", &expires);
        assert!(refused(verify(&below.issue_peer("c.acme.test", &expires), now())));
    }

    #[test]
    fn a_partner_bound_to_empty_files_matches_no_peer() {
        let ca = TestAuthority::new("CA");
        let mut empty = test_partner("acme", Some(&ca), Some("a.test"));
        empty.anchors.clear();
        assert_eq!(recognise_peer(vec![empty], &ca, &ca, "a.test"), None);
        assert_eq!(recognise_peer(vec![test_partner("acme", None, None)], &ca, &ca, "a.test"), None);
        assert_eq!(
            recognise_peer(vec![test_partner("acme", None, Some("a.test"))], &ca, &ca, "a.test"),
            None,
            "a name alone"
        );
    }
}
