//! Puts chains in order: from an end entity through whatever issuers there are, up to but without the root.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pki::{Certificate, Fingerprint};

/// Longer chains no TLS library follows.
const MAX_CHAIN_LENGTH: usize = 8;

/// Certificates that cross-sign one another make more paths than can be walked; real ones need a handful of steps.
const MAX_SEARCH_STEPS: usize = 1_000;

/// Signature checks for one keyring, each some 0.1 ms. A keyring with a hundred pairs needs a few hundred.
const MAX_SIGNATURE_CHECKS: usize = 4_096;

/// Which certificate issued which, within one pool. What was once checked is remembered.
pub(super) struct IssuerLinks {
    by_subject: BTreeMap<Vec<u8>, Vec<Arc<Certificate>>>,
    known: BTreeMap<(Fingerprint, Fingerprint), bool>,
    checks_left: usize,
}

impl IssuerLinks {
    /// `pool` is sorted. Roots may be in it; they are left out of chains.
    pub(super) fn new(pool: Vec<Arc<Certificate>>) -> Self {
        let mut by_subject: BTreeMap<Vec<u8>, Vec<Arc<Certificate>>> = BTreeMap::new();
        for certificate in pool.into_iter().filter(|certificate| !certificate.is_self_issued()) {
            by_subject.entry(certificate.subject_der().to_vec()).or_default().push(certificate);
        }
        Self { by_subject, known: BTreeMap::new(), checks_left: MAX_SIGNATURE_CHECKS }
    }

    /// Whether `issuer` issued `subject`, by name and signature. Nothing issues itself here.
    pub(super) fn is_issued(&mut self, subject: &Certificate, issuer: &Certificate) -> bool {
        if subject == issuer || subject.issuer_der() != issuer.subject_der() {
            return false;
        }
        let pair = (subject.fingerprint(), issuer.fingerprint());
        if let Some(known) = self.known.get(&pair) {
            return *known;
        }
        let Some(left) = self.checks_left.checked_sub(1) else {
            return false;
        };
        self.checks_left = left;
        let is_issued = subject.is_issued_by(issuer);
        self.known.insert(pair, is_issued);
        is_issued
    }

    /// The best chain from this end entity on.
    pub(super) fn best_chain(&mut self, end_entity: &Arc<Certificate>) -> Vec<Arc<Certificate>> {
        let mut search = ChainSearch { best: None, steps_left: MAX_SEARCH_STEPS };
        search.follow_issuers(self, &mut vec![Arc::clone(end_entity)]);
        search.best.map_or_else(|| vec![Arc::clone(end_entity)], |(_, chain)| chain)
    }

    fn issuers(&mut self, of: &Certificate) -> Vec<Arc<Certificate>> {
        if of.is_self_issued() {
            return Vec::new();
        }
        let mut candidates = self.by_subject.get(of.issuer_der()).cloned().unwrap_or_default();
        candidates.retain(|candidate| self.is_issued(of, candidate));
        candidates
    }
}

/// How good a chain is: first one that is valid as long as its end entity, then a long one, then one that stays valid
/// for long; the fingerprints decide what is left, so that files in another order make the same chain.
type ChainRank = (bool, usize, jiff::Timestamp, Reverse<Vec<Fingerprint>>);

struct ChainSearch {
    best: Option<(ChainRank, Vec<Arc<Certificate>>)>,
    steps_left: usize,
}

impl ChainSearch {
    fn follow_issuers(&mut self, links: &mut IssuerLinks, path: &mut Vec<Arc<Certificate>>) {
        let Some(left) = self.steps_left.checked_sub(1) else { return };
        self.steps_left = left;
        let Some(last) = path.last().cloned() else { return };
        let mut issuers = if path.len() < MAX_CHAIN_LENGTH { links.issuers(&last) } else { Vec::new() };
        // The same authority again, perhaps in another certificate, would be a loop.
        issuers.retain(|issuer| {
            path.iter().all(|part| part.spki() != issuer.spki() || part.subject_der() != issuer.subject_der())
        });
        if issuers.is_empty() {
            let rank = rank(path);
            if self.best.as_ref().is_none_or(|(best, _)| *best < rank) {
                self.best = Some((rank, path.clone()));
            }
        }
        for issuer in issuers {
            path.push(issuer);
            self.follow_issuers(links, path);
            path.pop();
        }
    }
}

fn rank(path: &[Arc<Certificate>]) -> ChainRank {
    let ends = path.iter().map(|part| part.validity().not_after).min().unwrap_or_default();
    let outlasts = path.first().is_some_and(|end_entity| ends >= end_entity.validity().not_after);
    (outlasts, path.len(), ends, Reverse(path.iter().map(|part| part.fingerprint()).collect()))
}
