//! What keeps an issuer from vouching here: keys whose signatures path validation does not verify, and name constraints of
//! kinds that it does not evaluate. Only for what people are told: webpki refuses both by itself.

use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::pki::{Certificate, KeyKind};

/// The longest RSA key that webpki verifies with.
const MAX_RSA_BITS: u32 = 8192;

/// Why certificates that this one issued cannot be verified, if they cannot: half a sentence.
pub(in crate::trust) fn explain_unusable_key(issuer: &Certificate) -> Option<String> {
    if let Some(weak) = issuer.key_weakness() {
        return Some(weak);
    }
    match issuer.key() {
        KeyKind::Other => Some(format!(
            "its key is {}, and only signatures of RSA (rsaEncryption), ECDSA P-256, P-384, P-521 and Ed25519 keys are \
             verified here",
            algorithm_name(issuer.spki())
        )),
        KeyKind::Rsa(bits) if bits > MAX_RSA_BITS => {
            Some(format!("its RSA key has {bits} bits, more than {MAX_RSA_BITS}"))
        }
        _ if webpki::anchor_from_trusted_cert(issuer.der()).is_err() => {
            Some("it cannot be read as a trust anchor (RFC 5280 6.1.1)".to_owned())
        }
        _ => None,
    }
}

fn algorithm_name(spki: &[u8]) -> String {
    let Ok((_, spki)) = SubjectPublicKeyInfo::from_der(spki) else { return "of an unknown kind".to_owned() };
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.10" => "RSASSA-PSS (id-RSASSA-PSS)".to_owned(),
        "1.2.840.10045.2.1" => "ECDSA on another curve".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        other => format!("of algorithm {other}"),
    }
}

/// The kinds of an issuer's name constraints that are not evaluated and concern this certificate, for people.
pub(super) fn unevaluated_constraints(issuer: &Certificate, subject: &Certificate) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for name in constrained_names(issuer) {
        match name {
            // Every certificate has a subject, be it an empty one.
            ConstraintKind::Directory => kinds.push("directoryName (distinguished names)"),
            ConstraintKind::Uri if !subject.uris().is_empty() => kinds.push("uniformResourceIdentifier (URI)"),
            ConstraintKind::Email if !subject.emails().is_empty() => kinds.push("rfc822Name (e-mail)"),
            ConstraintKind::Uri | ConstraintKind::Email | ConstraintKind::Evaluated => {}
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Whether it constrains names at all.
pub(super) fn has_constraints(issuer: &Certificate) -> bool {
    !constrained_names(issuer).is_empty()
}

#[derive(Clone, Copy)]
enum ConstraintKind {
    Directory,
    Uri,
    Email,
    Evaluated,
}

fn constrained_names(issuer: &Certificate) -> Vec<ConstraintKind> {
    let Ok((_, parsed)) = X509Certificate::from_der(issuer.der()) else { return Vec::new() };
    let Ok(Some(extension)) = parsed.name_constraints() else { return Vec::new() };
    let kind = |subtree: &GeneralSubtree<'_>| match subtree.base {
        GeneralName::DirectoryName(_) => ConstraintKind::Directory,
        GeneralName::URI(_) => ConstraintKind::Uri,
        GeneralName::RFC822Name(_) => ConstraintKind::Email,
        _ => ConstraintKind::Evaluated,
    };
    let permitted = extension.value.permitted_subtrees.iter().flatten();
    permitted.chain(extension.value.excluded_subtrees.iter().flatten()).map(kind).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CidrSubnet, DistinguishedName, GeneralSubtree, NameConstraints, SanType};

    use crate::trust::sample::{TestAuthority, days_from_now, now, pss_certificates, trust, trust_with_anchor};
    use crate::trust::{PeerRole, TrustError};

    fn rejection(error: TrustError) -> String {
        let TrustError::Other { why } = error else { panic!("{error}") };
        why
    }

    #[test]
    fn an_anchor_with_a_key_that_is_not_verified_with_is_named_with_its_key() {
        let [root, below] = pss_certificates();
        let trust = trust_with_anchor(&|_| (), &root);
        let why = trust.view().anchors[0].cannot_vouch.clone().unwrap();
        assert!(why.starts_with("its key is RSASSA-PSS"), "{why}");
        let why = rejection(trust.verify(&[below], &PeerRole::Client, days_from_now(30)).unwrap_err());
        assert!(
            why.starts_with(
                "\"CN=peer\" was issued by \"CN=PSS Root\", which cannot vouch here: its key is RSASSA-PSS"
            ),
            "{why}"
        );
        assert_eq!(super::explain_unusable_key(&TestAuthority::new("CA").certificate()), None);
    }

    #[test]
    fn constraints_of_kinds_that_are_not_evaluated_are_called_that_and_no_violation() {
        let names = || {
            let mut names = DistinguishedName::new();
            names.push(rcgen::DnType::OrganizationName, "Acme");
            names
        };
        let uri = || SanType::URI("spiffe://acme.test/etl".try_into().unwrap());
        let email = || SanType::Rfc822Name("etl@acme.test".try_into().unwrap());
        let address = || SanType::IpAddress("192.0.2.7".parse().unwrap());
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let inside = GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([192, 0, 2, 0], 24));
        for (permitted, name, says) in [
            (GeneralSubtree::DirectoryName(names()), dns("a.test"), Some("not evaluated here: directoryName")),
            (GeneralSubtree::Rfc822Name("acme.test".to_owned()), email(), Some("not evaluated here: rfc822Name")),
            (GeneralSubtree::Rfc822Name("acme.test".to_owned()), dns("a.test"), None),
            (GeneralSubtree::DnsName("acme.test".to_owned()), uri(), None),
            (
                GeneralSubtree::DnsName("acme.test".to_owned()),
                dns("a.test"),
                Some("do not permit a name of \"CN=a.test\" (dns:a.test)"),
            ),
            (inside, address(), None),
        ] {
            let constraints = NameConstraints { permitted_subtrees: vec![permitted], excluded_subtrees: Vec::new() };
            let ca = TestAuthority::new("CA");
            let below = ca.issue_intermediate("Below", &|params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: constraints.permitted_subtrees.clone(),
                    excluded_subtrees: Vec::new(),
                })
            });
            let peer = below.issue_peer("a.test", &|params| params.subject_alt_names = vec![name.clone()]);
            let verdict = trust(&[&ca]).verify(&peer.chain, &PeerRole::Client, now());
            match says {
                Some(says) => {
                    let why = rejection(verdict.unwrap_err());
                    assert!(why.contains(says) && why.contains("\"CN=Below\""), "{why}");
                }
                None => assert!(verdict.is_ok(), "{verdict:?}"),
            }
        }
    }
}
