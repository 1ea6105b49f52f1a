//! Which of our pairs may be shown to an upstream, in which order, by what its CertificateRequest says.

use jiff::Timestamp;

use crate::keyring::choice::signs;
use crate::keyring::{CandidateList, KeyPairCandidate, KeyPairSelection, PeerRequirements, Standing};
use crate::pki::Fingerprint;

/// The pairs that may be shown to an upstream, the preferred one first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionOrder {
    /// The pairs.
    pub pairs: Vec<Fingerprint>,
    /// The preferred pair replaces another usable one: it must be proved before all requests use it.
    pub needs_proof: bool,
}

/// Every pair that may be shown, as indexes into the candidates: the choice, then those of its keyring that the
/// upstream's CertificateRequest also names, then the others. Also whether the choice must be proved: if it is the
/// current pair and a previous one would serve as well.
pub fn selection_order(
    candidates: &CandidateList,
    asked: &PeerRequirements,
    choice: KeyPairSelection,
    now: Timestamp,
) -> (Vec<usize>, bool) {
    let all = &candidates.0;
    let first = &all[choice.index];
    let mut others: Vec<usize> = (0..all.len())
        .filter(|at| *at != choice.index && all[*at].keyring == first.keyring)
        .filter(|at| all[*at].validity.contains(now) && signs(&all[*at], asked))
        .collect();
    others.sort_by_key(|at| !is_named(&all[*at], asked));
    let equal = others.first().is_some_and(|at| is_named(&all[*at], asked) || !is_named(first, asked));
    let needs_proof = first.standing == Standing::Current && equal;
    (std::iter::once(choice.index).chain(others).collect(), needs_proof)
}

/// Whether the authorities that an upstream names exclude its keyring's current pair, while another pair chains to one.
pub fn excludes_current(candidates: &CandidateList, asked: &PeerRequirements, now: Timestamp) -> bool {
    let Some(current) = candidates.current() else { return false };
    let others = candidates.0.iter().filter(|other| other.key_pair != current.key_pair && other.validity.contains(now));
    !is_named(current, asked) && others.into_iter().any(|other| is_named(other, asked))
}

fn is_named(candidate: &KeyPairCandidate, asked: &PeerRequirements) -> bool {
    candidate.issuers.iter().any(|issuer| asked.authorities.contains(issuer))
}
