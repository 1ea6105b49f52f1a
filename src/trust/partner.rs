//! Partners: configured names for groups of peers, bound to their own anchors or pins, so that one partner's CA cannot
//! mint another's names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Matcher, Pin, Verified};
use crate::pki::Fingerprint;

/// What the configuration says of one partner (`[partner.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// Anchor files under the watched folder: only paths that end at one of these can be this partner.
    pub anchors: Vec<PathBuf>,
    /// Or pins on the path.
    pub pins: Vec<Pin>,
    /// Which peers it is; empty = every peer that its anchors or pins vouch for.
    pub peers: Vec<Matcher>,
    /// How many connections it may have open, over all listeners.
    pub max_connections: Option<usize>,
    /// Whom to call.
    pub contact: Option<String>,
}

/// One partner with its anchors resolved.
#[derive(Clone, Debug)]
pub struct Partner {
    /// Its settings.
    pub settings: Settings,
    /// Fingerprints of its anchors.
    pub anchors: BTreeSet<Fingerprint>,
}

/// All partners, in the order of the configuration: the first that matches is it.
#[derive(Clone, Debug, Default)]
pub struct Partners(pub Vec<Partner>);

impl Partners {
    /// Which partner a verified path is.
    pub fn recognise(&self, verified: &Verified) -> Option<Arc<str>> {
        let partner = self.0.iter().find(|partner| partner.is(verified))?;
        Some(Arc::clone(&partner.settings.name))
    }

    /// How many connections the partner of this name may have.
    pub fn max_connections(&self, name: &str) -> Option<usize> {
        self.0.iter().find(|partner| *partner.settings.name == *name)?.settings.max_connections
    }
}

impl Partner {
    fn is(&self, verified: &Verified) -> bool {
        let peers = &self.settings.peers;
        let bound = !self.settings.anchors.is_empty() || !self.settings.pins.is_empty();
        // Without anchors and pins of its own only its peers' names tell it apart: the configuration allows that where
        // one anchor issues them all. Bound to files that hold nothing, it is nobody.
        if bound && !self.vouches_for(verified) || !bound && peers.is_empty() {
            return false;
        }
        peers.is_empty() || peers.iter().any(|peer| peer.matches_certificate(&verified.path[0]))
    }

    fn vouches_for(&self, verified: &Verified) -> bool {
        let is_anchor = |fingerprint: &Fingerprint| self.anchors.contains(fingerprint);
        verified.anchor.as_ref().is_some_and(|(fingerprint, _)| is_anchor(fingerprint))
            || verified.path.iter().any(|certificate| {
                is_anchor(&certificate.fingerprint())
                    || self.settings.pins.iter().any(|pin| pin.spki == certificate.spki_hash())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Role;
    use crate::trust::sample::{Ca, now, trust};

    fn partner(name: &str, anchor: Option<&Ca>, dns: Option<&str>) -> Partner {
        let peers = dns.map(|dns| Matcher { dns: Some(dns.to_owned()), ..Matcher::default() });
        let settings = Settings {
            name: name.into(),
            anchors: anchor.iter().map(|_| PathBuf::from("trust/a.pem")).collect(),
            pins: Vec::new(),
            peers: peers.into_iter().collect(),
            max_connections: None,
            contact: None,
        };
        Partner { settings, anchors: anchor.iter().map(|ca| ca.certificate().fingerprint()).collect() }
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
        let mut pinned = partner("acme", None, None);
        pinned.settings.pins = vec![Pin { spki: ca.peer("b.test", &|_| ()).pin().spki, until: None }];
        assert_eq!(recognised(vec![pinned.clone()], &ca, &ca, "a.test"), None);
        let peer = ca.peer("a.test", &|_| ());
        pinned.settings.pins = vec![peer.pin()];
        let verified = trust(&[&ca]).verify(&peer.chain, &Role::Client, now()).unwrap();
        assert_eq!(Partners(vec![pinned]).recognise(&verified).as_deref(), Some("acme"));
    }

    #[test]
    fn bound_to_files_that_hold_nothing_it_is_nobody() {
        let ca = Ca::new("CA");
        let mut empty = partner("acme", Some(&ca), Some("a.test"));
        empty.anchors.clear();
        assert_eq!(recognised(vec![empty], &ca, &ca, "a.test"), None);
        assert_eq!(recognised(vec![partner("acme", None, None)], &ca, &ca, "a.test"), None);
        assert_eq!(
            recognised(vec![partner("acme", None, Some("a.test"))], &ca, &ca, "a.test").as_deref(),
            Some("acme")
        );
    }
}
