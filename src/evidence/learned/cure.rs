//! Whether another pair could cure what a peer says against the one that it was shown (contract section 4, rule 4).
//!
//! One pure rule with a table of tests. A refusal that the other pair would meet with as well teaches nothing: a client
//! that trusts neither pair's issuer must not move those that come from the same address.

use crate::keyring::KeyPairCandidate;

/// What a refusal says against a certificate, as far as its alert tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalClass {
    /// `unknown_ca` (48): its issuer.
    Issuer,
    /// `unsupported_certificate` (43): its algorithms, names or usage.
    Kind,
    /// `bad_certificate` (42), with which Go and others say everything; `handshake_failure` (40), `access_denied` (49),
    /// `decrypt_error` (51), `internal_error` (80), `user_canceled` (90), and ends without an alert: anything but validity.
    Vague,
    /// `certificate_revoked` (44), `certificate_expired` (45), `certificate_unknown` (46): this very certificate.
    Certificate,
}

/// The alerts that may be about the certificate that was shown, as RFC 8446 6 names them.
const ALERTS: [(&str, RefusalClass); 11] = [
    ("handshake_failure", RefusalClass::Vague),
    ("bad_certificate", RefusalClass::Vague),
    ("unsupported_certificate", RefusalClass::Kind),
    ("certificate_revoked", RefusalClass::Certificate),
    ("certificate_expired", RefusalClass::Certificate),
    ("certificate_unknown", RefusalClass::Certificate),
    ("unknown_ca", RefusalClass::Issuer),
    ("access_denied", RefusalClass::Vague),
    ("decrypt_error", RefusalClass::Vague),
    ("internal_error", RefusalClass::Vague),
    ("user_canceled", RefusalClass::Vague),
];

impl RefusalClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Issuer, Self::Kind, Self::Vague, Self::Certificate];

    /// The class of an alert and its name as a static string, if it may be about the certificate that was shown.
    pub fn find(alert: &str) -> Option<(&'static str, Self)> {
        ALERTS.into_iter().find(|(name, _)| *name == alert)
    }

    /// Whether a peer that says this against `refused` may accept `other`.
    pub fn could_be_cured(self, refused: &KeyPairCandidate, other: &KeyPairCandidate) -> bool {
        let (one, two) = (&refused.traits, &other.traits);
        let issuer = refused.issuers != other.issuers || one.authority_key != two.authority_key;
        let kind = one.algorithms != two.algorithms
            || refused.schemes != other.schemes
            || one.names != two.names
            || refused.dns != other.dns
            || one.usage != two.usage;
        match self {
            Self::Issuer => issuer,
            Self::Kind => kind,
            Self::Vague => issuer || kind || one.public_key != two.public_key,
            Self::Certificate => refused.key_pair != other.key_pair,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::choice::PairTraits;
    use crate::pki::{Fingerprint, Validity};

    fn shown() -> KeyPairCandidate {
        let day = crate::keyring::pool::day;
        KeyPairCandidate {
            validity: Validity { not_before: day(0), not_after: day(100) },
            dns: vec!["api.example".into()],
            schemes: vec![0x0403],
            issuers: vec![b"issuing ca".to_vec(), b"root ca".to_vec()],
            traits: PairTraits {
                authority_key: Some(vec![1]),
                algorithms: ("ECDSA P-256".into(), "1.2.840.10045.4.3.2".into()),
                names: vec!["dns:api.example".into()],
                usage: [true, true, true],
                public_key: vec![7],
            },
            ..KeyPairCandidate::sample("api", Fingerprint::from_bytes([1; 32]))
        }
    }

    fn changed(change: impl FnOnce(&mut KeyPairCandidate)) -> KeyPairCandidate {
        let mut other = KeyPairCandidate { key_pair: Fingerprint::from_bytes([2; 32]), ..shown() };
        change(&mut other);
        other
    }

    #[test]
    fn a_refusal_is_cured_only_by_a_difference_that_it_may_be_about() {
        for (difference, other, expected) in [
            ("nothing but the certificate", changed(|_| ()), [false, false, false, true]),
            (
                "validity",
                changed(|other| other.validity.not_after = crate::keyring::pool::day(90)),
                [false, false, false, true],
            ),
            ("key", changed(|other| other.traits.public_key = vec![8]), [false, false, true, true]),
            ("issuer", changed(|other| other.issuers[1] = b"other root".to_vec()), [true, false, true, true]),
            ("issuer's key", changed(|other| other.traits.authority_key = Some(vec![2])), [true, false, true, true]),
            ("key algorithm", changed(|other| other.schemes = vec![0x0804]), [false, true, true, true]),
            (
                "signature algorithm",
                changed(|other| other.traits.algorithms.1 = "1.2.840.113549.1.1.11".into()),
                [false, true, true, true],
            ),
            ("DNS name", changed(|other| other.dns = vec!["shop.example".into()]), [false, true, true, true]),
            ("address", changed(|other| other.traits.names.push("ip:192.0.2.1".into())), [false, true, true, true]),
            ("usage", changed(|other| other.traits.usage[2] = false), [false, true, true, true]),
        ] {
            assert_eq!(RefusalClass::ALL.map(|class| class.could_be_cured(&shown(), &other)), expected, "{difference}");
            assert_eq!(RefusalClass::ALL.map(|class| class.could_be_cured(&other, &shown())), expected, "{difference}");
        }
        assert_eq!(RefusalClass::ALL.map(|class| class.could_be_cured(&shown(), &shown())), [false; 4]);
    }

    #[test]
    fn alerts_that_cannot_be_about_a_certificate_have_no_class() {
        for alert in ["close_notify", "unexpected_message", "decode_error", "protocol_version", "illegal_parameter"] {
            assert_eq!(RefusalClass::find(alert), None);
        }
        assert_eq!(RefusalClass::find("unknown_ca"), Some(("unknown_ca", RefusalClass::Issuer)));
    }
}
