//! May an open connection stay? The two questions of every epoch: is its key pair still in use, does its peer still verify?
//! And of one to an upstream before them: is that still the upstream?
//!
//! Pure. `context` asks, and `connection` carries out what leaving means for one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::keyring::{CandidateList, Standing};
use crate::net::HostPort;
use crate::pki::Fingerprint;
use crate::snapshot::{Side, Snapshot, egress};
use crate::tls::ClientAuth;
use crate::trust::{PeerRole, PresentedChain, Trust, TrustError, quote_trust};

/// What must stay true of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// Its side.
    pub side: Side,
    /// Its listener.
    pub listener: Arc<str>,
    /// What we showed; `None` where no TLS is spoken (the application's connections).
    pub key_pair: Option<Fingerprint>,
    /// The peer's chain, end entity first; empty = it showed none.
    pub chain: PresentedChain,
    /// The role that the peer was verified for.
    pub role: PeerRole,
    /// The upstream that it leads to; `None` where it leads to none of ours.
    pub upstream: Option<HostPort>,
}

/// How soon a connection has to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainUrgency {
    /// What runs may take `limits.drain_planned`, and HTTP/2 is told to leave when it is idle.
    Planned,
    /// The same, but HTTP/2 waits for an idle moment no longer than twice `shutdown.drain`: a new process serves already.
    HandedOver,
    /// What runs may take `shutdown.drain`.
    Urgent,
    /// The same, and the process waits for it.
    Stopping,
}

/// Why a connection has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainCause {
    /// `connection_age`, `overlap_ended`, `revoked`, `key_pair_gone`, `no_key_pair`, `peer_certificate_expired`, `peer_revoked`,
    /// `trust_removed`, `upstream_changed`, `handed_over` or `stopping`.
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
}

impl DrainCause {
    /// The process is stopping.
    pub(crate) fn stopping() -> Self {
        Self { reason: "stopping", explanation: "this sidecar is stopping".to_owned() }
    }

    /// A new process has taken over.
    pub(crate) fn handed_over() -> Self {
        Self { reason: "handed_over", explanation: "a new sidekey process has taken over from this one".to_owned() }
    }

    /// How soon (contract section 4): only what was planned, and what no safety depends on, waits for what runs.
    pub fn urgency(&self) -> DrainUrgency {
        match self.reason {
            "overlap_ended" | "key_pair_gone" | "connection_age" | "upstream_changed" => DrainUrgency::Planned,
            "handed_over" => DrainUrgency::HandedOver,
            "stopping" => DrainUrgency::Stopping,
            _ => DrainUrgency::Urgent,
        }
    }

    /// It is as old as a connection may get.
    pub(crate) fn age_reached(age: Duration) -> Self {
        Self {
            reason: "connection_age",
            explanation: format!(
                "this connection has reached its maximum age of {} s (limits.connection_age)",
                age.as_secs()
            ),
        }
    }

    /// The verified path of the peer ends.
    pub(crate) fn peer_expiry(valid_until: Timestamp) -> Self {
        Self {
            reason: "peer_certificate_expired",
            explanation: format!("the peer's certificate path is valid until {valid_until}"),
        }
    }
}

/// Asks both questions. If the connection may stay: until when its peer's path is valid.
///
/// # Errors
/// Why it has to leave.
pub fn check_connection(
    facts: &ConnectionFacts,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Option<Timestamp>, DrainCause> {
    let Some(key_pair) = facts.key_pair else { return Ok(None) };
    let (candidates, trust, anonymous) = match facts.side {
        Side::Ingress => match snapshot.ingresses.get(&facts.listener) {
            Some(ingress) => {
                let anonymous = ingress.settings.client_auth == ClientAuth::Optional;
                (&ingress.candidates, &ingress.trust, anonymous)
            }
            None => return Err(missing_key_pair()),
        },
        Side::Egress => match snapshot.egresses.get(&facts.listener) {
            Some(egress) => {
                check_upstream(facts, &egress.settings)?;
                (&egress.candidates, &egress.trust, false)
            }
            None => return Err(missing_key_pair()),
        },
    };
    check_key_pair(key_pair, candidates, || find_standing(key_pair, snapshot))?;
    check_trust(facts, trust, anonymous, now)
}

fn missing_key_pair() -> DrainCause {
    DrainCause { reason: "no_key_pair", explanation: "this listener no longer has a key pair to show".to_owned() }
}

/// Before both questions: a connection to an upstream that the settings no longer name, or rename, has to leave.
fn check_upstream(facts: &ConnectionFacts, settings: &egress::EgressSettings) -> Result<(), DrainCause> {
    let explanation = match &facts.upstream {
        Some(upstream) if *upstream != settings.upstream => {
            format!("this connection leads to {upstream}, but the upstream is now {}", settings.upstream)
        }
        _ if facts.role != settings.expects => {
            "the configuration expects a different upstream name than this connection was made for".to_owned()
        }
        _ => return Ok(()),
    };
    Err(DrainCause { reason: "upstream_changed", explanation })
}

fn find_standing(key_pair: Fingerprint, snapshot: &Snapshot) -> Option<Standing> {
    let mut known = snapshot.keyrings.iter().flat_map(|keyring| &keyring.key_pairs);
    known.find(|view| view.key_pair == key_pair).map(|view| view.standing)
}

/// The first question.
fn check_key_pair(
    key_pair: Fingerprint,
    candidates: &CandidateList,
    standing: impl FnOnce() -> Option<Standing>,
) -> Result<(), DrainCause> {
    if candidates.0.iter().any(|candidate| candidate.key_pair == key_pair) {
        return Ok(());
    }
    let short = key_pair.short();
    let (reason, explanation) = match standing() {
        Some(Standing::Revoked) => ("revoked", format!("key pair {short}, which this connection shows, was revoked")),
        Some(Standing::Retired) => {
            ("overlap_ended", format!("the overlap of key pair {short}, which this connection shows, has ended"))
        }
        _ => ("key_pair_gone", format!("key pair {short}, which this connection shows, is no longer used here")),
    };
    Err(DrainCause { reason, explanation })
}

/// The second question.
fn check_trust(
    facts: &ConnectionFacts,
    trust: &Trust,
    anonymous: bool,
    now: Timestamp,
) -> Result<Option<Timestamp>, DrainCause> {
    if facts.chain.is_empty() && anonymous {
        return Ok(None);
    }
    match trust.verify_presented(&facts.chain, &facts.role, now) {
        Ok(verified) => Ok(Some(verified.valid_until)),
        Err(untrusted) => {
            let reason = match &untrusted {
                TrustError::Expired { .. } => "peer_certificate_expired",
                TrustError::Revoked { .. } => "peer_revoked",
                _ => "trust_removed",
            };
            let explanation = format!("{} no longer accepts the peer: {untrusted}", quote_trust(trust.name()));
            Err(DrainCause { reason, explanation })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::KeyPairCandidate;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_connection_stays_exactly_as_long_as_its_pair_is_a_candidate(
            shown in 0u8..6, candidates in proptest::collection::vec(0u8..6, 0..5), standing in 0usize..3,
        ) {
            let name = |n: u8| Fingerprint::of(&[n]);
            let held = CandidateList(candidates.iter().map(|n| KeyPairCandidate::sample("api", name(*n))).collect());
            let standing = [Some(Standing::Revoked), Some(Standing::Retired), None][standing];
            let verdict = check_key_pair(name(shown), &held, || standing);
            prop_assert_eq!(verdict.is_ok(), candidates.contains(&shown));
            if let Err(leave) = verdict {
                let expected = match standing {
                    Some(Standing::Revoked) => "revoked",
                    Some(Standing::Retired) => "overlap_ended",
                    _ => "key_pair_gone",
                };
                prop_assert_eq!(leave.reason, expected);
                prop_assert!(leave.explanation.contains(&name(shown).short()));
            }
        }
    }
}
