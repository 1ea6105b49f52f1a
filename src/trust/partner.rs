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
