//! What the due alerts are derived from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::alerts::conditions::AlertConditions;
use crate::registry::PeerRow;
use crate::snapshot::{KeyringView, TrustView};
use crate::trust::{OWN_TRUST_PREFIX, TrustName};

/// A snapshot's views, the known peers, what Events have told.
#[derive(Clone, Copy)]
pub struct AlertInputs<'a> {
    /// The snapshot's keyrings.
    pub keyrings: &'a [KeyringView],
    /// The snapshot's trusts.
    pub trusts: &'a [TrustView],
    /// The known peers and upstreams.
    pub peers: &'a [PeerRow],
    /// Conditions known from Events.
    pub conditions: &'a AlertConditions,
    /// The partners' contacts, by name.
    pub contacts: &'a BTreeMap<Arc<str>, String>,
}

/// What an alert about a trust says that it is about: the trust, or the keyring where it is that keyring's own.
pub(super) fn concerned_name(trust: &TrustName) -> Arc<str> {
    trust.strip_prefix(OWN_TRUST_PREFIX).map_or_else(|| Arc::clone(trust), Arc::from)
}

/// The contacts of these keyrings, without duplicates.
pub(super) fn contacts<'a>(records: &AlertInputs<'_>, keyrings: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<String> {
    let view = |name: &Arc<str>| records.keyrings.iter().find(|view| view.name == *name);
    let all: BTreeSet<String> = keyrings.into_iter().filter_map(|name| view(name)?.contact.clone()).collect();
    all.into_iter().collect()
}
