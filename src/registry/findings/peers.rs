//! Findings about peers and upstreams.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{PeerRow, short_fingerprint, shown_certificates};
use super::{DAY, FindingText, InventoryAudit, MAX_PEER_SILENCE, expiry};
use crate::pki::first_few;

/// Certificates with a shorter lifetime are renewed automatically.
const MIN_WATCHED_LIFETIME: i64 = 10 * DAY;

/// Maximum number of names in one sentence.
const MAX_NAMED_PEERS: usize = 5;

impl InventoryAudit<'_> {
    pub(super) fn check_peers(&self) {
        let seen = |peer: &&PeerRow| {
            self.live.contains(peer.instance.as_str()) && self.now - peer.last_seen.0 <= MAX_PEER_SILENCE
        };
        let seen_peers = self.inventory.peers.iter().filter(seen);
        let key = |peer: &PeerRow| (peer.listener.clone(), peer.identity_or_subject().to_owned());
        let shown: BTreeSet<&str> = shown_certificates(seen_peers, key, self.now)
            .into_iter()
            .map(|(peer, _)| peer.certificate.as_str())
            .collect();
        let mut public: BTreeMap<(&str, &str), Vec<&PeerRow>> = BTreeMap::new();
        for peer in self.inventory.peers.iter().filter(seen) {
            let lifetime = peer.not_after.0 - peer.not_before.0;
            let left = peer.not_after.0 - self.now;
            let ring = peer.keyring.as_deref().unwrap_or_default();
            if shown.contains(peer.certificate.as_str())
                && lifetime >= MIN_WATCHED_LIFETIME
                && left <= self.warning_threshold(&peer.instance, ring, lifetime)
            {
                let what = if peer.side == "egress" { "upstream" } else { "peer" };
                self.add_finding(
                    "partner_certificate_expires",
                    (&peer.name(), Some(&peer.certificate)),
                    &peer.instance,
                    FindingText {
                        explanation: format!(
                            "the certificate {} of {what} {} at {} {}",
                            short_fingerprint(&peer.certificate),
                            peer.name(),
                            peer.listener,
                            expiry(left, peer.not_after)
                        ),
                        remedy: "contact the partner: connections with an expired certificate are refused".to_owned(),
                    },
                );
            }
            // A successful handshake with an upstream that asked for no certificate has shown no pair.
            if peer.side == "egress" && peer.key_pair.is_none() {
                self.add_finding(
                    "upstream_not_mutual",
                    (&peer.listener, Some(&peer.certificate)),
                    &peer.instance,
                    FindingText {
                        explanation: format!(
                            "upstream {} at {} asked for no certificate: this is not mutual TLS, and the upstream does \
                             not learn who sends the requests",
                            peer.name(),
                            peer.listener
                        ),
                        remedy: "ask its operator to require client certificates, or to name the host and port where \
                             they are required"
                            .to_owned(),
                    },
                );
            }
            if peer.side == "ingress" && peer.public_ca.is_set() && left >= 0 {
                public.entry((&peer.listener, &peer.issuer)).or_default().push(peer);
            }
        }
        for ((listener, issuer), peers) in public {
            let mut names: Vec<String> = peers.iter().map(|peer| peer.name()).collect();
            names.sort();
            names.dedup();
            for peer in &peers {
                self.add_finding(
                    "peer_uses_public_ca",
                    (listener, Some(issuer)),
                    &peer.instance,
                    FindingText {
                        explanation: format!(
                            "at {listener}, a public CA ({issuer}) issued the certificates of {}",
                            first_few(&names, MAX_NAMED_PEERS)
                        ),
                        remedy: "public CAs no longer issue client certificates, and anyone can buy theirs: agree \
                             with the partner on a private CA or on pins"
                            .to_owned(),
                    },
                );
            }
        }
    }
}
