//! Findings about trusts: their anchors and CRLs.

use std::collections::BTreeSet;

use super::super::{AnchorRow, CrlRow, PlacementRow, TrustRow, short_fingerprint};
use super::{FindingText, InventoryAudit, day, expiry};
use crate::trust::describe_trust;

impl<'a> InventoryAudit<'a> {
    fn present_trusts(&self) -> impl Iterator<Item = &'a TrustRow> {
        self.inventory
            .trusts
            .iter()
            .filter(|trust| trust.present.is_set() && self.live.contains(trust.instance.as_str()))
    }

    pub(super) fn check_own_issuers(&self) {
        for trust in self.present_trusts() {
            let rings: BTreeSet<&str> = trust.keyrings.iter().collect();
            let same_place = |pair: &&PlacementRow| pair.instance == trust.instance && pair.standing == "current";
            for pair in self.present_key_pairs().filter(same_place).filter(|pair| rings.contains(pair.keyring.as_str()))
            {
                let mut mine = self.present_anchors(trust);
                let Some(anchor) = mine.find(|anchor| anchor.subject.as_ref() == Some(&pair.issuer)) else { continue };
                self.add_finding(
                    "trust_is_own_issuer",
                    (&trust.trust, Some(&anchor.anchor)),
                    &trust.instance,
                    FindingText {
                        explanation: format!(
                            "{} contains {}, which also issued our own key pair of keyring {}: every certificate \
                         that it issues is accepted as a peer, including those of other sidecars and servers",
                            describe_trust(&trust.trust),
                            pair.issuer,
                            pair.keyring
                        ),
                        remedy: "restrict the accepted peers with allow, or trust a CA that is for peers only"
                            .to_owned(),
                    },
                );
            }
        }
    }

    /// Anchors from files that expire without a successor of the same name. The platform's are renewed by its vendor.
    pub(super) fn check_anchors(&self) {
        for trust in self.present_trusts() {
            let all: Vec<&AnchorRow> = self.present_anchors(trust).filter(|anchor| anchor.kind == "anchor").collect();
            for anchor in &all {
                let (Some(begin), Some(end)) = (anchor.not_before, anchor.not_after) else { continue };
                let is_leaving = anchor.accepted_until.is_some_and(|until| until.0 <= end.0);
                let renewed =
                    |other: &&&AnchorRow| other.subject == anchor.subject && other.not_after > anchor.not_after;
                let ring = trust.keyrings.iter().next().unwrap_or_default();
                let left = end.0 - self.now;
                let is_far = left > self.warning_threshold(&trust.instance, ring, end.0 - begin.0);
                if is_leaving || is_far || all.iter().any(|other| renewed(&other)) {
                    continue;
                }
                let subject = anchor.subject.as_deref().unwrap_or_default();
                self.add_finding(
                    "anchor_expires",
                    (&trust.trust, Some(&anchor.anchor)),
                    &trust.instance,
                    FindingText {
                        explanation: format!(
                            "trust anchor {} ({subject}) of {} {}: from then on its peers are refused",
                            short_fingerprint(&anchor.anchor),
                            describe_trust(&trust.trust),
                            expiry(left, end)
                        ),
                        remedy: "request the CA's next anchor and add it beside this one; if no peer depends on it, \
                                 remove it"
                            .to_owned(),
                    },
                );
            }
        }
    }

    fn present_anchors(&self, trust: &TrustRow) -> impl Iterator<Item = &'a AnchorRow> {
        self.inventory.anchors.iter().filter(move |anchor| {
            anchor.present.is_set() && anchor.instance == trust.instance && anchor.trust == trust.trust
        })
    }

    pub(super) fn check_crls(&self) {
        for trust in self.present_trusts().filter(|trust| trust.checks_crls.is_set()) {
            let of_trust =
                |crl: &&CrlRow| crl.present.is_set() && crl.instance == trust.instance && crl.trust == trust.trust;
            let crls: Vec<&CrlRow> = self.inventory.crls.iter().filter(of_trust).collect();
            for crl in crls.iter().filter(|crl| crl.next_update.0 < self.now) {
                self.add_finding(
                    "crl_stale",
                    (&trust.trust, Some(&crl.issuer)),
                    &trust.instance,
                    FindingText {
                        explanation: format!(
                            "the CRL of {} in {} is out of date: the next update was due on {}",
                            crl.issuer,
                            describe_trust(&trust.trust),
                            day(crl.next_update)
                        ),
                        remedy: "put the CA's current CRL into the folder".to_owned(),
                    },
                );
            }
            let covered: BTreeSet<&str> = crls.iter().flat_map(|crl| crl.anchors.iter()).collect();
            let anchors = self.present_anchors(trust).filter(|anchor| anchor.kind != "pin");
            for anchor in anchors.filter(|anchor| !covered.contains(anchor.anchor.as_str())) {
                let subject = anchor.subject.as_deref().unwrap_or_default();
                self.add_finding(
                    "crl_missing",
                    (&trust.trust, Some(&anchor.anchor)),
                    &trust.instance,
                    FindingText {
                        explanation: format!(
                            "{} checks CRLs but has none of {subject}: its certificates cannot be revoked",
                            describe_trust(&trust.trust)
                        ),
                        remedy: "add its CRL to crls, or set crl_required = true to refuse such peers".to_owned(),
                    },
                );
            }
        }
    }
}
