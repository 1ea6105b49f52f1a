//! One of our key pairs at one upstream: how far its trial has come.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::nodes::{COMPARISON_INTERVAL, NodeState, NodeTable, UpstreamNode, UpstreamVerdict, is_within};
use super::shape::{ConnectionSeen, ProbeMode, ProofPolicy, VerdictChange};
use crate::pki::Fingerprint;

/// How long a refused pair is not used before the first retry; doubled after each further refusal.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The longest such pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_hours(1);
#[derive(Clone, Debug)]
pub(super) struct PairProof {
    pub(super) key_pair: Fingerprint,
    pub(super) nodes: NodeTable,
    /// It was the only pair once: it serves without proof until something speaks against it.
    pub(super) trusted: bool,
    /// What was reported last.
    pub(super) reported: Option<UpstreamVerdict>,
    /// Its last refusal was an alert: then a successful handshake is a change.
    pub(super) by_alert: bool,
    /// When it may be tried; `prove_within` counts from here.
    pub(super) since: Timestamp,
    /// No canary before this.
    pub(super) rests_until: Timestamp,
    /// Refusals in a row.
    pub(super) refusals: u32,
    /// When a probe is due.
    pub(super) probe: Option<Timestamp>,
    /// Traffic must wait for that probe.
    pub(super) probe_first: bool,
    /// Probes in a row without a verdict.
    pub(super) probes: u32,
    /// It has been reported that all requests try it.
    pub(super) announced: bool,
    /// When an answer that it got in place of the preferred pair was last compared.
    compared: Option<Timestamp>,
}

impl PairProof {
    pub(super) fn new(key_pair: Fingerprint, terms: ProofPolicy<'_>, now: Timestamp) -> Self {
        let probes = *terms.probe != ProbeMode::Off;
        Self {
            key_pair,
            nodes: NodeTable::default(),
            trusted: false,
            reported: None,
            by_alert: false,
            since: now,
            rests_until: now,
            refusals: 0,
            probe: probes.then_some(now),
            probe_first: probes,
            probes: 0,
            announced: false,
            compared: None,
        }
    }

    /// Whether an answer that it got in place of the preferred pair may be compared now.
    pub(super) fn may_compare(&self, now: Timestamp) -> bool {
        self.compared.is_none_or(|last| !is_within(last, COMPARISON_INTERVAL, now))
    }

    /// Records that such an answer is compared.
    pub(super) fn record_comparison(&mut self, now: Timestamp) {
        self.compared = Some(now);
    }

    pub(super) fn verdict(&self) -> Option<UpstreamVerdict> {
        match self.nodes.verdict() {
            Some(UpstreamVerdict::Refused) => Some(UpstreamVerdict::Refused),
            _ if self.trusted => Some(UpstreamVerdict::Proved),
            verdict => verdict,
        }
    }

    pub(super) fn end_trial(&mut self) {
        (self.refusals, self.probes, self.probe, self.probe_first) = (0, 0, None, false);
    }

    pub(super) fn record_handshake(&mut self, node: UpstreamNode) -> Option<VerdictChange> {
        let is_back = self.by_alert && self.verdict() == Some(UpstreamVerdict::Refused);
        let known = self.nodes.entry(node);
        if is_back && known.state == NodeState::Refused {
            known.state = NodeState::Unproved;
        }
        let news = self.verdict() == Some(UpstreamVerdict::HandshakeOk) && self.reported != self.verdict();
        news.then(|| self.report())
    }

    pub(super) fn record_proof(&mut self, node: UpstreamNode) -> Option<VerdictChange> {
        self.nodes.record_proof(node);
        if self.verdict() != Some(UpstreamVerdict::Proved) {
            return None;
        }
        self.end_trial();
        (self.reported != Some(UpstreamVerdict::Proved)).then(|| self.report())
    }

    /// The pair pauses, and is then tried as if it were new. Concurrent requests count as one refusal.
    pub(super) fn record_refusal(
        &mut self,
        node: UpstreamNode,
        by_alert: bool,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let is_same = self.verdict() == Some(UpstreamVerdict::Refused) && now < self.since;
        self.nodes.entry(node).state = NodeState::Refused;
        if is_same {
            return None;
        }
        let refusals = self.refusals.saturating_add(1);
        let since = add_saturating(now, retry_pause(refusals));
        let nodes = std::mem::take(&mut self.nodes);
        *self = Self { nodes, by_alert, refusals, ..Self::new(self.key_pair, terms, since) };
        Some(self.report())
    }

    /// The pair is no longer relied on, and only canaries show it. A change only where it was proved.
    pub(super) fn record_doubt(
        &mut self,
        node: UpstreamNode,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let before = self.verdict();
        self.nodes.entry(node).state = NodeState::Unproved;
        self.trusted = false;
        self.restart_trial(terms, now);
        (before == Some(UpstreamVerdict::Proved)).then(|| self.report())
    }

    /// A connection was made: another node ends a proof, and so do authorities that exclude the pair.
    pub(super) fn record_connection(
        &mut self,
        seen: ConnectionSeen,
        terms: ProofPolicy<'_>,
        now: Timestamp,
    ) -> Option<VerdictChange> {
        let before = self.verdict();
        self.nodes.record_connection(seen.node, (seen.asked, seen.excludes_current), seen.sought);
        self.trusted &= !seen.excludes_current;
        let after = self.verdict();
        if before == after {
            return None;
        }
        match (before, after) {
            (_, Some(UpstreamVerdict::Refused)) => {
                self.refusals = self.refusals.saturating_add(1);
                self.by_alert = false;
                self.restart_trial(terms, add_saturating(now, retry_pause(self.refusals)));
            }
            (_, Some(UpstreamVerdict::Proved)) => self.end_trial(),
            // The first handshake is reported where it ends a probe.
            (None, _) => return None,
            _ => self.restart_trial(terms, now),
        }
        (after.is_some() && self.reported != after).then(|| self.report())
    }

    /// The pair is tried again from then on: first by a probe, where one can prove it.
    fn restart_trial(&mut self, terms: ProofPolicy<'_>, from: Timestamp) {
        (self.since, self.rests_until, self.announced) = (from, from, false);
        // A connection has been made: only a probe that can prove the pair tells more, and traffic need not wait for it.
        self.probe_first = false;
        self.probe = matches!(terms.probe, ProbeMode::Head(_)).then_some(from);
    }

    pub(super) fn report(&mut self) -> VerdictChange {
        let verdict = self.verdict().unwrap_or(UpstreamVerdict::HandshakeOk);
        self.reported = Some(verdict);
        VerdictChange { verdict, next_try: (verdict == UpstreamVerdict::Refused).then_some(self.since) }
    }
}

/// The pause after this many times in a row.
pub(super) fn retry_pause(times: u32) -> Duration {
    let doubled = FIRST_RETRY_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(MAX_RETRY_PAUSE)
}

pub(super) fn add_saturating(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}
