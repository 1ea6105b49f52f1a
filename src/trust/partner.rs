//! Partners: configured names for groups of peers, bound to their own anchors or pins, so that one partner's CA cannot
//! mint another's names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use super::{Matcher, Pin, Verified};
use crate::keyring::Show;
use crate::pki::{Fingerprint, SpkiHash};

/// The configuration of one partner (`[partner.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// Anchor files under the watched folder: only paths that end at one of these can be this partner.
    pub anchors: Vec<PathBuf>,
    /// Or pins on the path.
    pub pins: Vec<Pin>,
    /// Which peers belong to it; empty = every peer that its anchors or pins verify.
    pub peers: Vec<Matcher>,
    /// Where they connect from: identifies the partner before it has shown a certificate.
    pub sources: Vec<IpNet>,
    /// Which of our key pairs it is shown during an overlap.
    pub show: Option<Wish>,
    /// Until when its peers may show expired certificates.
    pub accept_expired_until: Option<Timestamp>,
    /// How many connections it may have open, over all listeners.
    pub max_connections: Option<usize>,
    /// Contact details of the partner.
    pub contact: Option<String>,
}

/// `show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `"new_only"`: the current pair, even if the partner refused it.
    NewOnly,
    /// `{ old_until = DATE }`: the previous pair until then; from then on the general rule.
    OldUntil(Timestamp),
}

/// One partner with its anchors resolved.
#[derive(Clone, Debug)]
pub struct Partner {
    /// Its settings.
    pub settings: Settings,
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
        let partner = self.0.iter().find(|partner| partner.is(verified))?;
        Some(Arc::clone(&partner.settings.name))
    }

    /// Whether any partner may show expired certificates now.
    pub(super) fn is_lenient(&self, now: Timestamp) -> bool {
        self.0.iter().any(|partner| partner.settings.accept_expired_until.is_some_and(|until| now < until))
    }

    /// Until when the partner of this path may show an expired certificate, if it may now.
    pub(super) fn lenient_until(&self, verified: &Verified, now: Timestamp) -> Option<Timestamp> {
        let partner = self.0.iter().find(|partner| partner.is(verified))?;
        partner.settings.accept_expired_until.filter(|until| now < *until)
    }

    /// How many connections the partner of this name may have.
    pub fn max_connections(&self, name: &str) -> Option<usize> {
        self.0.iter().find(|partner| *partner.settings.name == *name)?.settings.max_connections
    }

    /// What a peer from this address is shown: from the first partner with such a source and a `show` that applies now.
    pub fn show(&self, from: IpAddr, now: Timestamp) -> Option<Show> {
        let from = from.to_canonical();
        let known = self.0.iter().filter(|partner| partner.settings.sources.iter().any(|net| net.contains(&from)));
        known.into_iter().find_map(|partner| match partner.settings.show? {
            Wish::NewOnly => Some(Show::New),
            Wish::OldUntil(until) => (now < until).then_some(Show::Old),
        })
    }
}

impl Settings {
    /// Whether it is bound to its own anchors, pins or exact certificates: any authority could issue mere names.
    pub fn is_bound(&self) -> bool {
        let exact = !self.peers.is_empty() && self.peers.iter().all(Matcher::is_exact);
        exact || !self.anchors.is_empty() || !self.pins.is_empty()
    }

    /// Dates at which the partner changes.
    pub fn dates(&self) -> impl Iterator<Item = Timestamp> {
        self.pins.iter().filter_map(|pin| pin.until).chain(self.accept_expired_until)
    }
}

impl Partner {
    /// Resolved, as it is at `now`.
    pub fn new(settings: Settings, anchors: BTreeSet<Fingerprint>, now: Timestamp) -> Self {
        let pins = settings.pins.iter().filter(|pin| pin.until.is_none_or(|until| now < until));
        Self { pins: pins.map(|pin| pin.spki).collect(), anchors, settings }
    }

    fn is(&self, verified: &Verified) -> bool {
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
    use crate::trust::Role;
    use crate::trust::sample::{Ca, days, now, trust};

    fn partner(name: &str, anchor: Option<&Ca>, dns: Option<&str>) -> Partner {
        let peers = dns.map(|dns| Matcher { dns: Some(dns.to_owned()), ..Matcher::default() });
        let settings = Settings {
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

    fn recognised(partners: Vec<Partner>, ca: &Ca, anchor: &Ca, name: &str) -> Option<Arc<str>> {
        let peer = ca.peer(name, &|_| ());
        Partners(partners).recognise(&trust(&[anchor]).verify(&peer.chain, &Role::Client, now()).unwrap())
    }

    #[test]
    fn one_partners_ca_cannot_mint_anothers_names() {
        let (acme, other) = (Ca::new("Acme"), Ca::new("Other"));
        let partners = || vec![partner("acme", Some(&acme), Some("*.acme.test")), partner("other", Some(&other), None)];
        assert_eq!(recognised(partners(), &acme, &acme, "a.acme.test").as_deref(), Some("acme"));
        assert_eq!(recognised(partners(), &acme, &acme, "a.test"), None);
        assert_eq!(recognised(partners(), &other, &other, "a.acme.test").as_deref(), Some("other"));
    }

    #[test]
    fn an_intermediate_of_the_path_may_be_what_a_partner_is_bound_to() {
        let public = Ca::new("Public");
        let (acme, other) = (public.below("Acme", &|_| ()), public.below("Other", &|_| ()));
        let partners = || vec![partner("acme", Some(&acme), None)];
        assert_eq!(recognised(partners(), &acme, &public, "a.test").as_deref(), Some("acme"));
        assert_eq!(recognised(partners(), &other, &public, "a.test"), None);
    }

    #[test]
    fn pins_bind_a_partner_too() {
        let ca = Ca::new("CA");
        let pinned = |pin: Pin, at: Timestamp| {
            let mut settings = partner("acme", None, None).settings;
            settings.pins = vec![pin];
            Partners(vec![Partner::new(settings, BTreeSet::new(), at)])
        };
        let peer = ca.peer("a.test", &|_| ());
        let verified = trust(&[&ca]).verify(&peer.chain, &Role::Client, now()).unwrap();
        let recognised = |pin: Pin, at: Timestamp| pinned(pin, at).recognise(&verified).is_some();
        assert!(!recognised(ca.peer("b.test", &|_| ()).pin(), now()));
        assert!(recognised(peer.pin(), now()));
        let dated = Pin { until: Some(days(2)), ..peer.pin() };
        assert!(recognised(dated, days(1)));
        assert!(!recognised(dated, days(2)), "its pin is over, and that does not make it known by nothing");
    }

    #[test]
    fn an_address_says_what_is_shown_before_a_certificate_does() {
        let show = |wish: Wish, at: Timestamp, from: &str| {
            let mut settings = partner("acme", None, None).settings;
            (settings.show, settings.sources) = (Some(wish), vec!["192.0.2.0/24".parse().unwrap()]);
            Partners(vec![Partner::new(settings, BTreeSet::new(), at)]).show(from.parse().unwrap(), at)
        };
        assert_eq!(show(Wish::NewOnly, now(), "192.0.2.7"), Some(Show::New));
        assert_eq!(show(Wish::NewOnly, now(), "::ffff:192.0.2.7"), Some(Show::New));
        assert_eq!(show(Wish::NewOnly, now(), "192.0.3.7"), None);
        assert_eq!(show(Wish::OldUntil(days(1)), now(), "192.0.2.7"), Some(Show::Old));
        assert_eq!(show(Wish::OldUntil(days(1)), days(1), "192.0.2.7"), None);
    }

    #[test]
    fn an_expired_certificate_is_accepted_of_its_partner_until_the_date_and_of_nobody_else() {
        use crate::trust::Anchors;
        use crate::trust::anchors::Found;
        use crate::trust::{AnchorSource, Untrusted};
        let (acme, other) = (Ca::new("Acme"), Ca::new("Other"));
        let expires = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2026, 11, 20);
        let source = AnchorSource::System;
        let settings = crate::trust::sample::settings(&|settings| settings.anchors = vec![AnchorSource::System]);
        let mut anchors = Anchors::open(settings, &Default::default(), &[]);
        let found = Found::Certificates(vec![acme.certificate(), other.certificate()]);
        anchors.arrive(&[(source, found)].into(), &Default::default(), now());
        let mut lenient = partner("acme", Some(&acme), Some("*.acme.test")).settings;
        lenient.accept_expired_until = Some(days(3));
        let anchor = BTreeSet::from([acme.certificate().fingerprint()]);
        let partners = Arc::new(Partners(vec![Partner::new(lenient, anchor, now())]));
        let trust = anchors.build_for(&partners, now());
        let verify = |peer: &crate::trust::sample::Made, at| trust.verify(&peer.chain, &Role::Client, at);
        let refused = |verdict: Result<_, Untrusted>| matches!(verdict, Err(Untrusted::Expired { .. }));

        let late = acme.peer("a.acme.test", &expires);
        let verified = verify(&late, now()).unwrap();
        assert_eq!(verified.valid_until, days(3));
        assert_eq!(verified.expired, Some(late.certificate().validity().not_after));
        assert!(refused(verify(&late, days(3))), "the date has come");
        assert!(refused(verify(&acme.peer("a.test", &expires), now())), "not one of its peers");
        assert!(refused(verify(&other.peer("a.acme.test", &expires), now())), "not by its anchor");
        assert_eq!(verify(&acme.peer("b.acme.test", &|_| ()), now()).unwrap().expired, None);
        // An issuer that has expired is another matter.
        let below = acme.below("Old issuing CA", &expires);
        assert!(refused(verify(&below.peer("c.acme.test", &expires), now())));
    }

    #[test]
    fn bound_to_files_that_hold_nothing_it_is_nobody() {
        let ca = Ca::new("CA");
        let mut empty = partner("acme", Some(&ca), Some("a.test"));
        empty.anchors.clear();
        assert_eq!(recognised(vec![empty], &ca, &ca, "a.test"), None);
        assert_eq!(recognised(vec![partner("acme", None, None)], &ca, &ca, "a.test"), None);
        assert_eq!(recognised(vec![partner("acme", None, Some("a.test"))], &ca, &ca, "a.test"), None, "a name alone");
    }
}
