//! What a CertificateRequest demands of the pairs in hand: which of them answers it, and whether one chains to an authority
//! that it names (RFC 8446 4.2.4, 4.3.2). The choice within a handshake as a client, as pure functions.

use super::choice::{KeyPairCandidate, PeerRequirements, signs};

/// How a pair's chain relates to the authorities that a CertificateRequest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityFit {
    /// The request names none.
    Unstated,
    /// The pair chains to one of them.
    Named,
    /// The pair chains to none of them.
    Excluded,
}

impl AuthorityFit {
    /// That of this pair.
    pub fn between(candidate: &KeyPairCandidate, asked: &PeerRequirements) -> Self {
        if asked.authorities.is_empty() {
            Self::Unstated
        } else if candidate.issuers.iter().any(|issuer| asked.authorities.contains(issuer)) {
            Self::Named
        } else {
            Self::Excluded
        }
    }
}

/// Which pair of `order`, the preferred one first, answers a CertificateRequest: the first that can sign for it and chains
/// to an authority that it names, else the first that can sign for it. `None`: no key can.
pub fn answer_request(order: &[&KeyPairCandidate], asked: &PeerRequirements) -> Option<usize> {
    let fitting = || (0..order.len()).filter(|at| signs(order[*at], asked));
    let named = fitting().find(|at| AuthorityFit::between(order[*at], asked) == AuthorityFit::Named);
    named.or_else(|| fitting().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Fingerprint;

    fn candidate(issuer: &str, schemes: &[u16]) -> KeyPairCandidate {
        KeyPairCandidate {
            schemes: schemes.to_vec(),
            issuers: vec![issuer.as_bytes().to_vec()],
            ..KeyPairCandidate::sample("out", Fingerprint::of(issuer.as_bytes()))
        }
    }

    fn asked(authorities: &[&str], schemes: &[u16]) -> PeerRequirements {
        let authorities = authorities.iter().map(|name| name.as_bytes().to_vec()).collect();
        PeerRequirements { authorities, schemes: schemes.to_vec(), ..PeerRequirements::default() }
    }

    #[test]
    fn the_first_pair_that_fits_the_request_answers_it() {
        let (new, old, other) = (candidate("new", &[1, 2]), candidate("old", &[2]), candidate("other", &[3]));
        let order = [&new, &old, &other];
        for (authorities, schemes, wanted) in [
            // Nothing is stated, or no pair chains to what is: the order decides.
            (&[][..], &[][..], Some(0)),
            (&["stranger"], &[], Some(0)),
            (&["old"], &[], Some(1)),
            (&["old", "new"], &[], Some(0)),
            (&["other", "old"], &[], Some(1)),
            // A pair that cannot sign answers nothing, whatever authority is named.
            (&["new"], &[3], Some(2)),
            (&["old"], &[1], Some(0)),
            (&[], &[2], Some(0)),
            (&["old"], &[4], None),
        ] {
            assert_eq!(answer_request(&order, &asked(authorities, schemes)), wanted, "{authorities:?} {schemes:?}");
        }
        assert_eq!(answer_request(&[], &asked(&[], &[])), None);
    }

    #[test]
    fn a_request_without_authorities_excludes_no_pair() {
        let pair = candidate("new", &[1]);
        assert_eq!(AuthorityFit::between(&pair, &asked(&[], &[])), AuthorityFit::Unstated);
        assert_eq!(AuthorityFit::between(&pair, &asked(&["a", "new"], &[])), AuthorityFit::Named);
        assert_eq!(AuthorityFit::between(&pair, &asked(&["a"], &[])), AuthorityFit::Excluded);
    }
}
