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
        let _ = verified;
        todo!()
    }
}
