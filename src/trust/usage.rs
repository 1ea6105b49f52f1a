//! Which peers would fail if one anchor or pin of a trust were removed: what a trust holds, with what `matched` knows.

use jiff::Timestamp;

use super::matched::UsageFacts;
use super::{AnchorView, Trust, TrustName, describe_trust};

/// Which peers would fail without which anchor or pin of one trust.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrustUsage {
    /// The trust.
    pub trust: TrustName,
    /// Its anchors and pins.
    pub vouchers: Vec<AnchorUsage>,
}

/// An anchor or a pin, and the peers that it verified.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AnchorUsage {
    /// The anchor's fingerprint, or the pin.
    pub id: String,
    /// The anchor's subject, printable; `pin` for a pin.
    pub subject: String,
    /// Until when it is accepted, if not for ever: `until`, or the end of its overlap.
    pub until: Option<Timestamp>,
    /// When it last verified a peer, as far as is known.
    pub last_matched: Option<Timestamp>,
    /// The peers and upstreams that it verified last: they would no longer be verified without it.
    pub would_break: Vec<String>,
}

impl TrustUsage {
    /// The trust in a sentence.
    pub fn describe_trust(&self) -> String {
        describe_trust(&self.trust)
    }

    /// Answers "which peers would fail if I removed this one" for everything that this trust holds: anchors of files
    /// also where they have verified no peer, those of the platform only where they have.
    pub fn from_trust(trust: &Trust, facts: &UsageFacts) -> Self {
        let names = |peers: Vec<(&str, Timestamp)>| peers.into_iter().map(|(peer, _)| peer.to_owned()).collect();
        let view = trust.view();
        let is_of_use = |anchor: &&AnchorView| !anchor.platform || facts.anchors.contains_key(&anchor.anchor);
        let anchors = view.anchors.iter().filter(is_of_use).map(|anchor| AnchorUsage {
            id: anchor.anchor.to_string(),
            subject: anchor.subject.clone(),
            until: anchor.until,
            last_matched: facts.anchors.get(&anchor.anchor).copied(),
            would_break: names(facts.peers_needing_anchor(anchor.anchor)),
        });
        let pins = view.pins.iter().map(|pin| AnchorUsage {
            id: pin.spki.to_string(),
            subject: "pin".to_owned(),
            until: pin.until,
            last_matched: facts.pins.get(&pin.spki).copied(),
            would_break: names(facts.peers_needing_pin(pin.spki)),
        });
        Self { trust: view.name.clone(), vouchers: anchors.chain(pins).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::trust::anchors::{Anchors, FoundAnchors, PersistedAnchors};
    use crate::trust::sample::{TestAuthority, now, settings};
    use crate::trust::{AnchorSource, TrustSettings};

    #[test]
    fn anchors_of_files_are_listed_beside_the_platforms_of_which_none_was_needed() {
        let (file, platform) = (TestAuthority::new("File"), TestAuthority::new("Platform"));
        let source = AnchorSource::File { path: "trust/a.pem".into(), until: None };
        let settings = TrustSettings { anchors: vec![source.clone(), AnchorSource::System], ..settings(&|_| ()) };
        let mut anchors = Anchors::open(settings, &PersistedAnchors::default(), &[]);
        let found = BTreeMap::from([
            (source, FoundAnchors::Certificates(vec![file.certificate()])),
            (AnchorSource::System, FoundAnchors::Certificates(vec![platform.certificate()])),
        ]);
        anchors.apply_sources(&found, &BTreeMap::new(), now());
        let trust = anchors.build(now());
        let subjects = |facts: &UsageFacts| {
            TrustUsage::from_trust(&trust, facts).vouchers.into_iter().map(|one| one.subject).collect::<Vec<_>>()
        };
        assert_eq!(subjects(&UsageFacts::default()), ["CN=File"]);
        let mut facts = UsageFacts::default();
        facts.anchors.insert(platform.certificate().fingerprint(), now());
        assert_eq!(subjects(&facts).len(), 2);
    }
}
