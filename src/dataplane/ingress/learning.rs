//! How refusals of a peer's sender affect one handshake: what is known before the choice, and what its outcome and the
//! first data on its connection add (contract section 4, rules 3 and 4). `evidence::learned` keeps the memory itself.
//!
//! While none of the listener's keyrings is in overlap, nothing is looked up and no lock is taken.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{Event, EventBus, LessonRecord, PeerProofOutcome, PeerProofRecord};
use crate::evidence::learned::{
    PeerProofReport, PeerSource, RefusalChange, RefusalClass, RefusalMemory, RefusalReport, SILENT_REASONS, SenderKind,
};
use crate::keyring::{KeyPairCandidate, PeerHints, PeerRequirements, Standing, choose_with_hints};
use crate::pki::Fingerprint;
use crate::snapshot::{IngressSnapshot, Reader};
use crate::tls::FailedHandshake;

/// The reasons of ends without an alert.
const ENDED_IN_HANDSHAKE: &str = SILENT_REASONS[0];
const ENDED_WITHOUT_DATA: &str = SILENT_REASONS[1];

/// The refusal memory of a process; every change of it is an Event.
pub fn new_refusal_memory(
    remembered: &[crate::evidence::learned::PersistedRefusal],
    events: &Arc<EventBus>,
    reader: &Reader,
) -> Arc<RefusalMemory> {
    let (events, reader) = (Arc::clone(events), reader.clone());
    Arc::new(RefusalMemory::new(remembered, move |change| emit_change(change, &events, &reader)))
}

fn emit_change(change: RefusalChange, events: &EventBus, reader: &Reader) {
    let explanation = change.explanation();
    let RefusalChange { entry, standing, reason } = change;
    let Some(refused) = entry.refused.last().copied() else { return };
    events.emit(Event::Learned(LessonRecord {
        listener: Arc::clone(&entry.source.listener),
        source: entry.source.to_string(),
        keyring: entry.keyring,
        refused,
        shown: entry.shown,
        standing,
        peer: entry.peer.map(Into::into),
        reason,
        explanation,
        epoch: reader.latest().epoch,
    }));
}

/// One handshake, with the remembered refusals of its sender.
pub(crate) struct SourceHandshake {
    lessons: Arc<RefusalMemory>,
    sender: SenderKind,
    asked: PeerRequirements,
    known: PeerHints,
}

/// What is known of a peer before the choice, and what records the outcome of its handshake.
pub(crate) fn recall_source(
    ingress: &IngressSnapshot,
    lessons: &Arc<RefusalMemory>,
    from: Option<SocketAddr>,
    asked: &PeerRequirements,
    now: Timestamp,
) -> (PeerHints, Option<SourceHandshake>) {
    let Some(from) = from.filter(|_| ingress.candidates.in_overlap()) else {
        return (PeerHints::default(), None);
    };
    let mut known = PeerHints { show: ingress.partners.key_pair_to_show(from.ip(), now), taught: None };
    if !ingress.settings.learn {
        return (known, None);
    }
    let source = PeerSource::new(Arc::clone(&ingress.settings.name), from.ip(), asked.server_name.clone());
    let sender = SenderKind { source, offer: asked.offer };
    known.taught = lessons.recall(&sender, now);
    let learning = SourceHandshake { lessons: Arc::clone(lessons), sender, asked: asked.clone(), known: known.clone() };
    (known, Some(learning))
}

impl SourceHandshake {
    /// Records that the peer ended the handshake after it was shown `shown`, with an alert or without one. Returns the
    /// standing of the pair that its sender is shown from now on, if that is another one.
    pub(crate) fn record_failure(
        &self,
        failed: &FailedHandshake,
        shown: &KeyPairCandidate,
        ingress: &IngressSnapshot,
        now: Timestamp,
    ) -> Option<Standing> {
        let (reason, class) = match failed.alert() {
            Some(alert) => RefusalClass::find(alert)?,
            None if failed.ended_without_alert() => (ENDED_IN_HANDSHAKE, RefusalClass::Vague),
            None => return None,
        };
        let next = self.find_remedy(class, shown, ingress, now);
        let refusal = RefusalReport {
            sender: &self.sender,
            keyring: &shown.keyring,
            key_pair: shown.key_pair,
            reason,
            certificate: None,
            next: next.map(|next| next.key_pair),
        };
        let learned = self.lessons.record_refusal(&refusal, now);
        next.filter(|_| learned).map(|next| next.standing)
    }

    /// What records how the connection of a finished handshake goes on.
    pub(crate) fn into_connection_lesson(
        self,
        shown: &KeyPairCandidate,
        ingress: &IngressSnapshot,
        now: Timestamp,
    ) -> ConnectionLesson {
        let find = |class| Some((class, self.find_remedy(class, shown, ingress, now)?.key_pair));
        ConnectionLesson {
            remedies: RefusalClass::ALL.into_iter().filter_map(find).collect(),
            lessons: self.lessons,
            sender: self.sender,
            current: shown.standing == Standing::Current,
        }
    }

    /// The candidate that the rules choose now that `shown` is refused, among those that could cure what is said of it.
    fn find_remedy<'a>(
        &self,
        class: RefusalClass,
        shown: &KeyPairCandidate,
        ingress: &'a IngressSnapshot,
        now: Timestamp,
    ) -> Option<&'a KeyPairCandidate> {
        // The rules choose the keyring by the hello alone. Asked at every handshake, and nearly always there is no such pair.
        let is_other = |other: &KeyPairCandidate| other.keyring == shown.keyring && class.could_be_cured(shown, other);
        if !ingress.candidates.0.iter().any(is_other) {
            return None;
        }
        let mut known = self.known.clone();
        let taught = known.taught.get_or_insert_default();
        let useless = ingress.candidates.0.iter().filter(|other| !class.could_be_cured(shown, other));
        taught.refused.extend(useless.map(|other| other.key_pair).chain([shown.key_pair]));
        taught.shown = taught.shown.filter(|other| !taught.refused.contains(other));
        let choice = choose_with_hints(&ingress.candidates, &self.asked, &known, now)?;
        let next = &ingress.candidates.0[choice.index];
        (!was_refused(&known, next)).then_some(next)
    }
}

fn was_refused(known: &PeerHints, candidate: &KeyPairCandidate) -> bool {
    known.taught.as_ref().is_some_and(|taught| taught.refused.contains(&candidate.key_pair))
}

/// One connection after its handshake, until its first data or its end.
pub(crate) struct ConnectionLesson {
    lessons: Arc<RefusalMemory>,
    sender: SenderKind,
    /// Whether the pair that was shown is its keyring's current one.
    current: bool,
    /// The pair to show instead, where what is said could be cured.
    remedies: Vec<(RefusalClass, Fingerprint)>,
}

impl ConnectionLesson {
    /// Records what the connection has shown of its pair.
    pub(crate) fn record(&self, proof: &PeerProofRecord, now: Timestamp) {
        let (sender, key_pair) = (&self.sender, proof.key_pair);
        match proof.outcome {
            PeerProofOutcome::Proved => {
                let peer = proof.certificate.map(|certificate| (certificate, &*proof.identity));
                self.lessons.record_proof(&PeerProofReport { sender, key_pair, current: self.current, peer }, now);
            }
            PeerProofOutcome::UnexplainedEnd => {
                let (reason, class) =
                    RefusalClass::find(proof.reason).unwrap_or((ENDED_WITHOUT_DATA, RefusalClass::Vague));
                let (keyring, certificate) = (&proof.keyring, proof.certificate);
                let next = self.remedies.iter().find(|(of, _)| *of == class).map(|(_, next)| *next);
                let refusal = RefusalReport { sender, keyring, key_pair, reason, certificate, next };
                self.lessons.record_refusal(&refusal, now);
            }
        }
    }
}
