//! What upstreams make of our key pairs now, as far as the operator has to act on it: a pair that is refused or doubted, and an
//! upstream that asks for no certificate. Pure; fed with every Event, read by `sidekey status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::handshake::{HandshakeRecord, NO_CERTIFICATE_ASKED};
use super::list::Event;
use super::proof::{EXCLUDED_BY_AUTHORITIES, ProofRecord};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::HandshakeOutcome;

/// Entries kept; pairs that were rotated away leave theirs behind.
const MAX_ENTRIES: usize = 1024;
/// So many connections in a row have to be doubted where the pair had been accepted before: an answer of 403 to one request
/// says nothing then.
const DOUBTS_IN_A_ROW: u32 = 3;

/// What an upstream makes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtKind {
    /// It refuses the pair.
    Refused,
    /// Its answers, or their absence, may refuse the pair.
    Doubted,
    /// It asks for no certificate.
    NotMutual,
}

/// One thing to act on at one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamDoubt {
    /// The egress.
    pub listener: Arc<str>,
    /// The pair; `None`: no pair is asked for.
    pub key_pair: Option<Fingerprint>,
    /// What it is.
    pub kind: DoubtKind,
    /// One printable sentence.
    pub explanation: String,
    /// Since when.
    pub since: Timestamp,
}

/// The last known state of each pair at each egress.
#[derive(Debug, Default)]
pub(super) struct UpstreamDoubts(BTreeMap<(Arc<str>, Option<Fingerprint>), DoubtEntry>);

#[derive(Debug, Default)]
struct DoubtEntry {
    /// It was accepted before.
    accepted: bool,
    in_a_row: u32,
    last: Option<UpstreamDoubt>,
}

impl UpstreamDoubts {
    /// Takes an Event in.
    pub(super) fn record_event(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Handshake(handshake) if handshake.side == Side::Egress => self.record_handshake(handshake),
            Event::Proof(proof) if proof.reason != EXCLUDED_BY_AUTHORITIES => self.record_proof(proof, now),
            _ => {}
        }
    }

    /// What there is to act on.
    pub(super) fn to_vec(&self) -> Vec<UpstreamDoubt> {
        let pressing = |entry: &&DoubtEntry| {
            !entry.accepted
                || entry.in_a_row >= DOUBTS_IN_A_ROW
                || entry.last.as_ref().is_some_and(|last| last.kind != DoubtKind::Doubted)
        };
        self.0.values().filter(pressing).filter_map(|entry| entry.last.clone()).collect()
    }

    /// Whether the last that is known of this pair there is a refusal or a doubt.
    pub(super) fn is_doubted(&self, listener: &Arc<str>, key_pair: Fingerprint) -> bool {
        let entry = self.0.get(&(Arc::clone(listener), Some(key_pair)));
        entry.is_some_and(|entry| entry.last.is_some())
    }

    fn record_handshake(&mut self, handshake: &HandshakeRecord) {
        let listener = &handshake.listener;
        if handshake.is_failure() {
            let refused = handshake.refused_by_alert().is_some();
            // It had shown its certificate, and so received ours or was about to.
            let silent = handshake.reason == "closed" && handshake.peer.is_some();
            if let Some(key_pair) = handshake.key_pair.filter(|_| refused || silent) {
                let kind = if refused { DoubtKind::Refused } else { DoubtKind::Doubted };
                self.push((listener, Some(key_pair)), kind, &handshake.explanation, handshake.time);
            }
        } else if handshake.reason == NO_CERTIFICATE_ASKED {
            self.push((listener, None), DoubtKind::NotMutual, &handshake.explanation, handshake.time);
        } else {
            self.0.remove(&(Arc::clone(listener), None));
        }
    }

    fn record_proof(&mut self, proof: &ProofRecord, now: Timestamp) {
        let about = (&proof.listener, Some(proof.key_pair));
        match proof.outcome {
            HandshakeOutcome::Accepted => {
                *self.entry(about) = DoubtEntry { accepted: true, ..DoubtEntry::default() };
            }
            HandshakeOutcome::Refused => self.push(about, DoubtKind::Refused, &proof.explanation, now),
            HandshakeOutcome::Doubted | HandshakeOutcome::Failed => {
                self.push(about, DoubtKind::Doubted, &proof.explanation, now);
            }
            HandshakeOutcome::Unproved => {}
        }
    }

    fn push(
        &mut self,
        (listener, key_pair): (&Arc<str>, Option<Fingerprint>),
        kind: DoubtKind,
        why: &str,
        at: Timestamp,
    ) {
        let entry = self.entry((listener, key_pair));
        entry.in_a_row = entry.in_a_row.saturating_add(1);
        let since = entry.last.as_ref().filter(|last| last.kind == kind).map_or(at, |last| last.since);
        let (listener, explanation) = (Arc::clone(listener), why.to_owned());
        entry.last = Some(UpstreamDoubt { listener, key_pair, kind, explanation, since });
    }

    /// The entry of a pair at an egress, a new one where there is none. A full table forgets an accepted pair first, then
    /// the oldest doubt.
    fn entry(&mut self, (listener, key_pair): (&Arc<str>, Option<Fingerprint>)) -> &mut DoubtEntry {
        let about = (Arc::clone(listener), key_pair);
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&about) {
            let since = |entry: &DoubtEntry| entry.last.as_ref().map(|last| last.since);
            let oldest = self.0.iter().min_by_key(|(_, entry)| since(entry)).map(|(about, _)| about.clone());
            oldest.and_then(|about| self.0.remove(&about));
        }
        self.0.entry(about).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::handshake::tests::accepted;
    use crate::snapshot::Epoch;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn proof(outcome: HandshakeOutcome) -> Event {
        Event::Proof(ProofRecord {
            listener: "out".into(),
            outcome,
            reason: "status_403",
            key_pair: Fingerprint::of(b"ours"),
            alert_received: None,
            explanation: "why".to_owned(),
            connection: 1,
            epoch: Epoch(1),
            handshake: None,
        })
    }

    fn kinds(all: &UpstreamDoubts) -> Vec<DoubtKind> {
        all.to_vec().into_iter().map(|doubt| doubt.kind).collect()
    }

    #[test]
    fn a_pair_that_was_never_accepted_is_doubted_at_once_and_an_accepted_one_after_three_connections() {
        let mut all = UpstreamDoubts::default();
        all.record_event(&proof(HandshakeOutcome::Doubted), now());
        assert_eq!(kinds(&all), [DoubtKind::Doubted]);
        assert!(all.is_doubted(&"out".into(), Fingerprint::of(b"ours")));
        all.record_event(&proof(HandshakeOutcome::Accepted), now());
        assert_eq!(kinds(&all), []);
        for wanted in [&[][..], &[], &[DoubtKind::Doubted]] {
            all.record_event(&proof(HandshakeOutcome::Doubted), now());
            assert_eq!(kinds(&all), wanted);
        }
        all.record_event(&proof(HandshakeOutcome::Accepted), now());
        all.record_event(&proof(HandshakeOutcome::Refused), now());
        assert_eq!(kinds(&all), [DoubtKind::Refused]);
    }

    #[test]
    fn an_upstream_without_mutual_tls_stays_listed_until_it_asks() {
        let mut all = UpstreamDoubts::default();
        let handshake = |reason| {
            Event::Handshake(Arc::new(HandshakeRecord { side: Side::Egress, reason, key_pair: None, ..accepted() }))
        };
        all.record_event(&handshake(NO_CERTIFICATE_ASKED), now());
        assert_eq!(kinds(&all), [DoubtKind::NotMutual]);
        all.record_event(&handshake("ok"), now());
        assert_eq!(kinds(&all), []);
    }

    #[test]
    fn fifty_thousand_pairs_and_egresses_keep_within_the_table_whatever_the_upstreams_make_of_them() {
        let mut all = UpstreamDoubts::default();
        for number in 0..50_000_u32 {
            for outcome in [HandshakeOutcome::Accepted, HandshakeOutcome::Doubted] {
                let Event::Proof(mut proof) = proof(outcome) else { unreachable!() };
                proof.key_pair = Fingerprint::of(&[&number.to_be_bytes(), outcome.as_str().as_bytes()].concat());
                all.record_event(&Event::Proof(proof), now());
            }
            let handshake = HandshakeRecord {
                side: Side::Egress,
                listener: format!("out-{number}").into(),
                reason: NO_CERTIFICATE_ASKED,
                ..accepted()
            };
            all.record_event(&Event::Handshake(Arc::new(handshake)), now());
            assert!(all.0.len() <= MAX_ENTRIES, "{} after {number}", all.0.len());
        }
        assert_eq!(all.0.len(), MAX_ENTRIES);
    }
}
