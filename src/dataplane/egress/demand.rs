//! What an upstream's CertificateRequest says about our pairs, in words: whose certificates it asks for, and whether one of
//! ours chains there.

use crate::dataplane::exchange::proof::RequestSummary;
use crate::keyring::demand::AuthorityFit;
use crate::keyring::{CandidateList, PeerRequirements};
use crate::pki::certificate::name_text;
use crate::pki::{Fingerprint, first_few};

/// Authorities named in one sentence.
const MAX_NAMED_AUTHORITIES: usize = 5;

/// What `asked` says about `shown`.
pub(super) fn summarise_request(
    candidates: &CandidateList,
    shown: Fingerprint,
    asked: &PeerRequirements,
) -> RequestSummary {
    let fit_of = |wanted: &dyn Fn(Fingerprint) -> bool, fit| {
        let mut those = candidates.0.iter().filter(|candidate| wanted(candidate.key_pair));
        those.any(|candidate| AuthorityFit::between(candidate, asked) == fit)
    };
    if asked.authorities.is_empty() {
        return RequestSummary { asked: true, ..RequestSummary::default() };
    }
    let excluded = fit_of(&|pair| pair == shown, AuthorityFit::Excluded);
    let fits = match (excluded, fit_of(&|_| true, AuthorityFit::Named)) {
        (false, _) => "to which the pair chains",
        (true, true) => "to which the pair does not chain",
        (true, false) => "and none of our key pairs chains to these authorities",
    };
    let remark = format!("; the upstream asks for certificates of {}, {fits}", authority_list(asked));
    RequestSummary { asked: true, excluded, remark }
}

/// The current pair where a CertificateRequest excludes it and names an issuer of another one that was shown: both, and one
/// sentence.
pub(super) fn explain_exclusion(
    candidates: &CandidateList,
    shown: Fingerprint,
    asked: &PeerRequirements,
) -> Option<(Fingerprint, String)> {
    let current = candidates.current()?;
    let other = candidates.0.iter().find(|candidate| candidate.key_pair == shown && shown != current.key_pair)?;
    let excluded = AuthorityFit::between(current, asked) == AuthorityFit::Excluded
        && AuthorityFit::between(other, asked) == AuthorityFit::Named;
    excluded.then(|| {
        let explanation = format!(
            "the upstream asks for certificates of {}, to which our key pair {} (current) does not chain, so it was not shown; \
             our key pair {} ({}) was shown instead: send its operator the new issuer's certificate to trust before that pair \
             retires",
            authority_list(asked),
            current.key_pair.short(),
            other.key_pair.short(),
            other.standing.as_str(),
        );
        (current.key_pair, explanation)
    })
}

fn authority_list(asked: &PeerRequirements) -> String {
    let quote = |name: &Vec<u8>| {
        let text = name_text(name);
        format!("\"{}\"", &text[..text.floor_char_boundary(200)])
    };
    // The rest is only counted.
    let named: Vec<String> = asked.authorities.iter().take(MAX_NAMED_AUTHORITIES).map(quote).collect();
    let more = asked.authorities.len() - named.len();
    let list = first_few(&named, MAX_NAMED_AUTHORITIES);
    if more == 0 { list } else { format!("{list} and {more} more") }
}

#[cfg(test)]
mod tests {
    use rcgen::{DistinguishedName, DnType};

    use super::*;
    use crate::keyring::{KeyPairCandidate, Standing};

    fn authority(name: &str) -> Vec<u8> {
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = distinguished;
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        crate::pki::Certificate::parse(der.into()).unwrap().subject_der().to_vec()
    }

    fn candidate(issuer: &[u8], standing: Standing) -> KeyPairCandidate {
        KeyPairCandidate {
            standing,
            schemes: vec![1],
            issuers: vec![issuer.to_vec()],
            ..KeyPairCandidate::sample("out", Fingerprint::of(issuer))
        }
    }

    #[test]
    fn a_request_is_told_by_its_authorities_and_by_the_pairs_that_chain_to_them() {
        let (new, old, other) = (authority("New CA"), authority("Old CA"), authority("Other CA"));
        let all = CandidateList(vec![candidate(&new, Standing::Current), candidate(&old, Standing::Previous)]);
        let (current, previous) = (Fingerprint::of(&new), Fingerprint::of(&old));
        let asked = |names: &[&Vec<u8>]| PeerRequirements {
            authorities: names.iter().map(|name| (*name).clone()).collect(),
            ..PeerRequirements::default()
        };
        for (shown, names, excluded, words) in [
            (current, vec![], false, ""),
            (current, vec![&new], false, "\"CN=New CA\", to which the pair chains"),
            (current, vec![&old], true, "\"CN=Old CA\", to which the pair does not chain"),
            (current, vec![&other], true, "\"CN=Other CA\", and none of our key pairs chains"),
            (previous, vec![&old, &other], false, "\"CN=Old CA\", \"CN=Other CA\", to which the pair chains"),
        ] {
            let said = summarise_request(&all, shown, &asked(&names));
            assert_eq!(said.excluded, excluded, "{}", said.remark);
            assert!(said.remark.contains(words) && said.remark.is_empty() == words.is_empty(), "{}", said.remark);
        }
        let many = summarise_request(&all, current, &asked(&[&other; 100]));
        assert!(many.remark.contains("and 95 more,"), "{}", many.remark);
        let (excluded, why) = explain_exclusion(&all, previous, &asked(&[&old])).unwrap();
        assert!(excluded == current && why.contains("\"CN=Old CA\""), "{why}");
        // Nothing is excluded where the request names none, both, or neither, or where the current pair was shown.
        for (shown, names) in
            [(previous, vec![]), (previous, vec![&old, &new]), (previous, vec![&other]), (current, vec![&old])]
        {
            assert_eq!(explain_exclusion(&all, shown, &asked(&names)), None);
        }
    }
}
