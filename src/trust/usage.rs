//! Which peers would fail if one anchor or pin of a trust were removed: what a trust holds, with what `matched` knows.

use jiff::Timestamp;

use super::matched::UsageFacts;
use super::{AnchorSource, Trust, TrustName};

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
    /// Answers "which peers would fail if I removed this one" for everything that this trust holds. Of the platform's
    /// anchors only those that have ever verified a peer.
    pub fn from_trust(trust: &Trust, facts: &UsageFacts) -> Self {
        let names = |peers: Vec<(&str, Timestamp)>| peers.into_iter().map(|(peer, _)| peer.to_owned()).collect();
        let view = trust.view();
        let anchors = view.anchors.iter().map(|anchor| AnchorUsage {
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
        let is_platform = trust.settings().anchors.contains(&AnchorSource::System);
        let is_of_use = |voucher: &AnchorUsage| !is_platform || voucher.last_matched.is_some();
        Self { trust: view.name.clone(), vouchers: anchors.chain(pins).filter(is_of_use).collect() }
    }
}
