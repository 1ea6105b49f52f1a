//! Whether a pair may serve: validity, strength, usage (contract section 3, "Refused for good reason").
//!
//! Pure: checks one pair against one keyring's settings. `rotation` acts on the result.

use jiff::{SignedDuration, Timestamp};

use super::{EkuPolicy, KeyringSettings};
use crate::pki::{Certificate, KeyKind, KeyPair};

/// The verdict on one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPairFitness {
    /// It may serve now; `warning` says what stricter settings would refuse.
    Usable {
        /// The warning's text, if any.
        warning: Option<String>,
    },
    /// Not valid yet: staged until `from` (`not_before` plus `skew`).
    NotYet {
        /// When it may start to serve.
        from: Timestamp,
    },
    /// Unusable under these settings.
    Refused(FitnessRefusal),
}

/// Why a pair is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitnessRefusal {
    /// Stable snake_case code: `revoked`, `is_ca`, `weak_key`, `weak_signature`, `weak_certificate`, `unsupported_key`, `expired`, `usage_excludes_server`, `usage_excludes_client`.
    pub reason: &'static str,
    /// One printable sentence with the values and what to do.
    pub explanation: String,
}

/// Checks a pair. Permanent flaws come first, so that a weak pair is not reported as expired later.
pub fn assess_fitness(pair: &KeyPair, settings: &KeyringSettings, now: Timestamp) -> KeyPairFitness {
    if settings.revoked.contains(&pair.fingerprint()) {
        return KeyPairFitness::Refused(revocation_refusal(pair));
    }
    if let Some(refusal) = check_strength(pair) {
        return KeyPairFitness::Refused(refusal);
    }
    let mut warnings = Vec::new();
    for refusal in check_usage(pair, settings) {
        match settings.eku {
            EkuPolicy::Enforce => return KeyPairFitness::Refused(refusal),
            EkuPolicy::Warn => warnings.push(refusal.explanation),
        }
    }
    let validity = pair.validity();
    if now > validity.not_after {
        let explanation =
            format!("{} expired on {}; add a renewed one", describe(pair), format_time(validity.not_after));
        return KeyPairFitness::Refused(FitnessRefusal { reason: "expired", explanation });
    }
    if now < validity.not_before {
        return KeyPairFitness::NotYet { from: add_saturating(validity.not_before, settings.skew) };
    }
    for issuer in &pair.chain()[1..] {
        if now > issuer.validity().not_after {
            warnings.push(format!(
                "the intermediate {:?} of {} expired on {}; peers may refuse the chain: add one with a valid intermediate",
                issuer.subject(),
                describe(pair),
                format_time(issuer.validity().not_after)
            ));
        }
    }
    KeyPairFitness::Usable { warning: (!warnings.is_empty()).then(|| warnings.join("; ")) }
}

/// The refusal of a pair that was revoked by the configuration or by command.
pub(super) fn revocation_refusal(pair: &KeyPair) -> FitnessRefusal {
    let explanation = format!("{} was revoked and never serves again; add another key pair", describe(pair));
    FitnessRefusal { reason: "revoked", explanation }
}

/// Whether two certificates share a name: a DNS name (one may be a wildcard that covers the other's), URI or IP
/// address of the SAN; if one of them has none of these, the same subject.
pub fn shares_name(one: &Certificate, other: &Certificate) -> bool {
    if !has_names(one) || !has_names(other) {
        return one.subject_der() == other.subject_der();
    }
    let dns = one.dns_names().iter().any(|a| other.dns_names().iter().any(|b| covers(a, b) || covers(b, a)));
    dns || one.uris().iter().any(|uri| other.uris().contains(uri))
        || one.ips().iter().any(|ip| other.ips().contains(ip))
}

/// Whether the DNS name `pattern` of a certificate, a wildcard for one whole label or not, covers `name` (RFC 9525 6.3).
/// Both are lower case.
pub fn covers(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(parent), Some((label, rest))) => !label.is_empty() && label != "*" && parent == rest,
        _ => false,
    }
}

/// Names a pair in a sentence: `key pair 3fa9c1d2e4b5 (CN=api)`.
pub(super) fn describe(pair: &KeyPair) -> String {
    let end_entity = pair.end_entity();
    let name = match (end_entity.subject(), end_entity.dns_names().first(), end_entity.uris().first()) {
        ("", Some(name), _) | ("", None, Some(name)) => name,
        (subject, _, _) => subject,
    };
    format!("key pair {} ({name})", pair.fingerprint().short())
}

/// A time in a sentence, UTC, to the second.
pub(super) fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `at` plus `by`, capped at the latest possible time.
pub(crate) fn add_saturating(at: Timestamp, by: std::time::Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// A time that was recorded before a step of the clock, as it would have been recorded after it: ages stay what they were.
pub(crate) fn shift_time(at: Timestamp, step: SignedDuration) -> Timestamp {
    at.saturating_add(step).unwrap_or(at)
}

fn has_names(certificate: &Certificate) -> bool {
    !(certificate.dns_names().is_empty() && certificate.uris().is_empty() && certificate.ips().is_empty())
}

fn check_strength(pair: &KeyPair) -> Option<FitnessRefusal> {
    let end_entity = pair.end_entity();
    if end_entity.is_ca() {
        let explanation = format!(
            "the end-entity certificate of {} has CA:TRUE, which peers refuse; issue one with basicConstraints CA:FALSE",
            describe(pair)
        );
        return Some(FitnessRefusal { reason: "is_ca", explanation });
    }
    if end_entity.key() == KeyKind::Other {
        let explanation = format!(
            "{} has an unsupported key type; issue one with ECDSA P-256, P-384, P-521, Ed25519 or RSA",
            describe(pair)
        );
        return Some(FitnessRefusal { reason: "unsupported_key", explanation });
    }
    pair.chain().iter().enumerate().find_map(|(at, certificate)| {
        let weakness = certificate.weakness()?;
        let reason = match certificate.key() {
            KeyKind::Rsa(..2048) => "weak_key",
            _ if weakness.contains("signed with") => "weak_signature",
            _ => "weak_certificate",
        };
        let which = if at == 0 { String::new() } else { format!("the intermediate {:?} of ", certificate.subject()) };
        let explanation = format!("{which}{} is too weak: {weakness}; issue a new one", describe(pair));
        Some(FitnessRefusal { reason, explanation })
    })
}

fn check_usage(pair: &KeyPair, settings: &KeyringSettings) -> Vec<FitnessRefusal> {
    let usage = pair.end_entity().usage();
    let mut out = Vec::new();
    if settings.roles.server && !usage.server {
        let explanation = format!(
            "the extended key usage of {} excludes serverAuth, but an ingress shows keyring {:?}; issue one with serverAuth, or set eku = \"warn\"",
            describe(pair),
            settings.name
        );
        out.push(FitnessRefusal { reason: "usage_excludes_server", explanation });
    }
    if settings.roles.client && !usage.client {
        let explanation = format!(
            "the extended key usage of {} excludes clientAuth, but an egress shows keyring {:?}; issue one with clientAuth, or set eku = \"warn\"",
            describe(pair),
            settings.name
        );
        out.push(FitnessRefusal { reason: "usage_excludes_client", explanation });
    }
    out
}

#[cfg(test)]
mod tests;
