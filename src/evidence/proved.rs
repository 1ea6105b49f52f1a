//! One upstream's verdicts on our key pairs, and which pair a request shows to it: contract section 4's egress row.
//!
//! A handshake proves nothing in TLS 1.3, and some servers refuse a certificate only by a status, so a new pair is
//! first probed, then tried by one harmless request at a time (the canary), while all others keep using a pair that is
//! known to work. Pure: facts are passed to [`UpstreamProofs::record`], `now` is an argument, and changes are returned. `dataplane`
//! decides which bytes on a connection amount to which fact.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::keyring::choice::signs;
use crate::keyring::{CandidateList, KeyPairCandidate, KeyPairSelection, PeerRequirements, Standing};
use crate::pki::Fingerprint;

/// How long a refused pair is not used before the first retry; doubled after each further refusal.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The longest such pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_hours(1);

/// An upstream's verdict on one of our pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamVerdict {
    /// The handshake succeeded, which in TLS 1.3 proves nothing.
    HandshakeOk,
    /// It answered a request with a status other than a refusal.
    Proved,
    /// It refuses the pair.
    Refused,
}

impl UpstreamVerdict {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeOk => "handshake_ok",
            Self::Proved => "proved",
            Self::Refused => "refused",
        }
    }
}

/// `probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProbeMode {
    /// Only traffic shows whether an upstream accepts a new pair.
    Off,
    /// A handshake, before any traffic uses the pair.
    #[default]
    Handshake,
    /// A HEAD of this path, which can prove the pair.
    Head(String),
}

/// An egress's settings for proofs.
#[derive(Clone, Copy, Debug)]
pub struct ProofPolicy<'a> {
    /// `probe`.
    pub probe: &'a ProbeMode,
    /// `prove_within`: after it, all requests try an unproved pair, not only the canary.
    pub prove_within: Duration,
}

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
    let named =
        |candidate: &KeyPairCandidate| candidate.issuers.iter().any(|issuer| asked.authorities.contains(issuer));
    let mut others: Vec<usize> = (0..all.len())
        .filter(|at| *at != choice.index && all[*at].keyring == first.keyring)
        .filter(|at| all[*at].validity.contains(now) && signs(&all[*at], asked))
        .collect();
    others.sort_by_key(|at| !named(&all[*at]));
    let equal = others.first().is_some_and(|at| named(&all[*at]) || !named(first));
    let needs_proof = first.standing == Standing::Current && equal;
    (std::iter::once(choice.index).chain(others).collect(), needs_proof)
}

/// Which pair one request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSelection {
    /// The pair.
    pub key_pair: Fingerprint,
    /// The request's role.
    pub how: SelectionRole,
}

/// Why a request shows the pair that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectionRole {
    /// It is known to work, or no better one exists.
    Settled,
    /// The request tries an unproved pair: the upstream's only canary until [`UpstreamProofs::release_canary`].
    Canary,
    /// `prove_within` has passed: every request tries it.
    Everyone,
    /// The preferred pair is not proved: another one keeps serving, until the given time if known.
    Fallback(Option<Timestamp>),
}

/// A fact about one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofFact {
    /// A successful handshake.
    Handshake,
    /// A response with a status other than a refusal.
    Response,
    /// Refused with an alert, in or right after the handshake.
    Alert,
    /// Refused with a status that another pair does not get.
    Status,
    /// The connection ended without an answer, and another pair got one.
    Dropped,
}

/// A change by a fact or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictChange {
    /// The upstream's verdict on the pair now.
    pub verdict: UpstreamVerdict,
    /// For `Refused`: when the pair is tried again.
    pub next_try: Option<Timestamp>,
}

/// One upstream's verdicts on the pairs that may be shown to it.
#[derive(Clone, Debug, Default)]
pub struct UpstreamProofs {
    pairs: Vec<PairProof>,
    canary: bool,
}

#[derive(Clone, Debug)]
struct PairProof {
    key_pair: Fingerprint,
    verdict: Option<UpstreamVerdict>,
    /// Its last refusal was an alert: then a successful handshake is a change.
    by_alert: bool,
    /// When it may be tried; `prove_within` counts from here.
    since: Timestamp,
    /// Refusals in a row.
    refusals: u32,
    /// When a probe is due.
    probe: Option<Timestamp>,
    /// Traffic must wait for that probe.
    probe_first: bool,
    /// Probes in a row without a verdict.
    probes: u32,
    /// It has been reported that all requests try it.
    announced: bool,
}

impl UpstreamProofs {
    /// Adopts an epoch's pairs: new ones are unproved, missing ones are forgotten. A keyring's only pair needs no
    /// proof, and stays trusted after another one replaces it.
    pub fn update_pairs(&mut self, pairs: &[Fingerprint], terms: ProofPolicy<'_>, now: Timestamp) {
        self.pairs.retain(|known| pairs.contains(&known.key_pair));
        for key_pair in pairs {
            if self.get(*key_pair).is_none() {
                self.pairs.push(PairProof::new(*key_pair, terms, now));
            }
        }
        if let [only] = self.pairs.as_mut_slice() {
            only.mark_accepted();
        }
    }

    /// The verdict on a pair, if any.
    pub fn verdict(&self, key_pair: Fingerprint) -> Option<UpstreamVerdict> {
        self.get(key_pair)?.verdict
    }

    /// Selects a pair for one request; `harmless`: it is idempotent and can be replayed. The second value is a change
    /// to report: from now on all requests try the preferred pair.
    pub fn select(
        &mut self,
        order: &SelectionOrder,
        harmless: bool,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> (RequestSelection, Option<VerdictChange>) {
        let first = order.pairs[0];
        let pick = |key_pair, how| (RequestSelection { key_pair, how }, None);
        let Some(fallback) = self.find_fallback(&order.pairs[1..]) else { return pick(first, SelectionRole::Settled) };
        let busy = self.canary;
        let Some(pair) = self.get_mut(first) else { return pick(fallback, SelectionRole::Fallback(None)) };
        match pair.verdict {
            Some(UpstreamVerdict::Proved) => return pick(first, SelectionRole::Settled),
            Some(UpstreamVerdict::Refused) => {}
            _ if order.needs_proof => {}
            _ => return pick(first, SelectionRole::Settled),
        }
        if now < pair.since {
            return pick(fallback, SelectionRole::Fallback(Some(pair.since)));
        }
        if pair.probe_first {
            return pick(fallback, SelectionRole::Fallback(None));
        }
        if now >= add_saturating(pair.since, terms.prove_within) {
            let said = std::mem::replace(&mut pair.announced, true);
            // A refusal by a status follows a successful handshake.
            if pair.verdict == Some(UpstreamVerdict::Refused) && !pair.by_alert {
                pair.verdict = Some(UpstreamVerdict::HandshakeOk);
            }
            let news = !said && pair.verdict == Some(UpstreamVerdict::HandshakeOk);
            return (
                RequestSelection { key_pair: first, how: SelectionRole::Everyone },
                news.then(|| pair.to_change()),
            );
        }
        if harmless && !busy {
            self.canary = true;
            return pick(first, SelectionRole::Canary);
        }
        pick(fallback, SelectionRole::Fallback(Some(now)))
    }

    /// The pair to retry with after those in `tried` were refused: for a request that was not processed, or may be
    /// processed twice.
    pub fn next(&self, order: &SelectionOrder, tried: &[Fingerprint]) -> Option<Fingerprint> {
        let left: Vec<_> = order.pairs.iter().copied().filter(|pair| !tried.contains(pair)).collect();
        self.find_fallback(&left).or_else(|| left.first().copied())
    }

    /// Claims the canary role for a probe; false if another request has it.
    pub fn claim_canary(&mut self) -> bool {
        !std::mem::replace(&mut self.canary, true)
    }

    /// Ends the canary, whatever its result.
    pub fn release_canary(&mut self) {
        self.canary = false;
    }

    /// Records a fact. `None`: nothing changed.
    pub fn record(
        &mut self,
        key_pair: Fingerprint,
        shown: ProofFact,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let pair = self.get_mut(key_pair)?;
        match shown {
            ProofFact::Handshake => {
                let news = pair.verdict.is_none() || pair.verdict == Some(UpstreamVerdict::Refused) && pair.by_alert;
                news.then(|| {
                    pair.verdict = Some(UpstreamVerdict::HandshakeOk);
                    pair.to_change()
                })
            }
            ProofFact::Response => {
                let news = pair.verdict != Some(UpstreamVerdict::Proved);
                pair.mark_accepted();
                news.then(|| pair.to_change())
            }
            ProofFact::Alert | ProofFact::Status | ProofFact::Dropped => {
                // Concurrent requests count as one refusal.
                if pair.verdict == Some(UpstreamVerdict::Refused) && now < pair.since {
                    return None;
                }
                pair.mark_refused(shown == ProofFact::Alert, terms, now);
                Some(pair.to_change())
            }
        }
    }

    /// The pair to probe now, if any.
    pub fn probe_due(&self, order: &SelectionOrder, now: Timestamp) -> Option<Fingerprint> {
        self.find_fallback(&order.pairs[1..])?;
        let pair = self.get(order.pairs[0])?;
        let due = pair.verdict != Some(UpstreamVerdict::Proved) && pair.probe.is_some_and(|probe| now >= probe);
        (due && (order.needs_proof || pair.verdict == Some(UpstreamVerdict::Refused))).then_some(pair.key_pair)
    }

    /// Ends a probe; its result has been recorded. A probe that can prove the pair is repeated until it does.
    pub fn finish_probe(&mut self, key_pair: Fingerprint, terms: ProofPolicy<'_>, now: Timestamp) {
        let Some(pair) = self.get_mut(key_pair) else { return };
        if now < pair.since || pair.verdict == Some(UpstreamVerdict::Proved) {
            return;
        }
        pair.probe_first = false;
        pair.probe = match terms.probe {
            ProbeMode::Head(_) => {
                pair.probes = pair.probes.saturating_add(1);
                Some(add_saturating(now, retry_pause(pair.probes)))
            }
            ProbeMode::Off | ProbeMode::Handshake => None,
        };
    }

    /// The best of these: one that is proved, else the first that is not refused.
    fn find_fallback(&self, pairs: &[Fingerprint]) -> Option<Fingerprint> {
        let with = |wanted: fn(Option<UpstreamVerdict>) -> bool| {
            pairs.iter().copied().find(|key_pair| wanted(self.verdict(*key_pair)))
        };
        with(|verdict| verdict == Some(UpstreamVerdict::Proved))
            .or_else(|| with(|verdict| verdict != Some(UpstreamVerdict::Refused)))
    }

    fn get(&self, key_pair: Fingerprint) -> Option<&PairProof> {
        self.pairs.iter().find(|pair| pair.key_pair == key_pair)
    }

    fn get_mut(&mut self, key_pair: Fingerprint) -> Option<&mut PairProof> {
        self.pairs.iter_mut().find(|pair| pair.key_pair == key_pair)
    }
}

impl PairProof {
    fn new(key_pair: Fingerprint, terms: ProofPolicy<'_>, now: Timestamp) -> Self {
        let probes = *terms.probe != ProbeMode::Off;
        Self {
            key_pair,
            verdict: None,
            by_alert: false,
            since: now,
            refusals: 0,
            probe: probes.then_some(now),
            probe_first: probes,
            probes: 0,
            announced: false,
        }
    }

    fn mark_accepted(&mut self) {
        self.verdict = Some(UpstreamVerdict::Proved);
        self.refusals = 0;
        self.probes = 0;
        self.probe = None;
        self.probe_first = false;
    }

    /// The pair pauses, and is then tried as if it were new.
    fn mark_refused(&mut self, by_alert: bool, terms: ProofPolicy<'_>, now: Timestamp) {
        let refusals = self.refusals.saturating_add(1);
        let since = add_saturating(now, retry_pause(refusals));
        *self = Self {
            verdict: Some(UpstreamVerdict::Refused),
            by_alert,
            refusals,
            ..Self::new(self.key_pair, terms, since)
        };
    }

    fn to_change(&self) -> VerdictChange {
        let verdict = self.verdict.unwrap_or(UpstreamVerdict::HandshakeOk);
        VerdictChange { verdict, next_try: (verdict == UpstreamVerdict::Refused).then_some(self.since) }
    }
}

/// The pause after this many times in a row.
fn retry_pause(times: u32) -> Duration {
    let doubled = FIRST_RETRY_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(MAX_RETRY_PAUSE)
}

fn add_saturating(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
