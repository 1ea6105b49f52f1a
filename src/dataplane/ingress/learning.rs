//! How refusals of a peer's source affect one handshake: what is known before the choice, and what the outcome adds
//! (contract section 4, rules 3 and 4). `evidence::learned` keeps the memory itself.
//!
//! While none of the listener's keyrings is in overlap, nothing is looked up and no lock is taken.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{Event, EventBus, LessonRecord};
use crate::evidence::learned::{
    AcceptanceReport, PeerSource, RefusalChange, RefusalMemory, RefusalReport, certificate_alert,
};
use crate::keyring::{KeyPairCandidate, PeerHints, PeerRequirements, Standing, choose_with_hints};
use crate::pki::Fingerprint;
use crate::snapshot::{IngressSnapshot, Reader};
use crate::trust::Peer;

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

/// One handshake, with the remembered refusals of its source.
pub(crate) struct SourceHandshake {
    lessons: Arc<RefusalMemory>,
    source: PeerSource,
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
    known.taught = lessons.get(&source, now);
    let learning = SourceHandshake { lessons: Arc::clone(lessons), source, asked: asked.clone(), known: known.clone() };
    (known, Some(learning))
}

impl SourceHandshake {
    /// Records the alert with which the peer answered `shown`. Returns the standing of the pair that its source is
    /// shown from now on, if that is another one.
    pub(crate) fn record_refusal(
        &self,
        alert: Option<&str>,
        shown: &KeyPairCandidate,
        ingress: &IngressSnapshot,
        now: Timestamp,
    ) -> Option<Standing> {
        let alert = certificate_alert(alert?)?;
        let next = self.next_candidate(shown, ingress, now);
        let refusal = RefusalReport {
            source: &self.source,
            keyring: &shown.keyring,
            key_pair: shown.key_pair,
            alert,
            offer: self.asked.offer,
        };
        let learned = self.lessons.record_refusal(&refusal, next.map(|next| next.key_pair), now);
        next.filter(|_| learned).map(|next| next.standing)
    }

    /// Records that the peer was verified after a handshake with this pair.
    pub(crate) fn record_acceptance(&self, key_pair: Fingerprint, peer: &Peer, now: Timestamp) {
        let peer = (peer.certificate().fingerprint(), peer.identity());
        let accepted = AcceptanceReport { source: &self.source, key_pair, peer, offer: self.asked.offer };
        self.lessons.record_acceptance(&accepted, now);
    }

    /// The candidate that the rules choose now that `shown` is refused.
    fn next_candidate<'a>(
        &self,
        shown: &KeyPairCandidate,
        ingress: &'a IngressSnapshot,
        now: Timestamp,
    ) -> Option<&'a KeyPairCandidate> {
        let mut known = self.known.clone();
        let taught = known.taught.get_or_insert_default();
        taught.refused.push(shown.key_pair);
        taught.shown = taught.shown.filter(|other| *other != shown.key_pair);
        let choice = choose_with_hints(&ingress.candidates, &self.asked, &known, now)?;
        let next = &ingress.candidates.0[choice.index];
        (!was_refused(&known, next)).then_some(next)
    }
}

fn was_refused(known: &PeerHints, candidate: &KeyPairCandidate) -> bool {
    known.taught.as_ref().is_some_and(|taught| taught.refused.contains(&candidate.key_pair))
}
