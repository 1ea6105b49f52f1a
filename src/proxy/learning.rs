//! How refusals of a peer's source affect one handshake: what is known before the choice, and what the outcome adds
//! (contract section 4, rules 3 and 4). `keyring::learned` keeps the memory itself.
//!
//! While none of the listener's keyrings is in overlap, nothing is looked up and no lock is taken.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::event::{Event, Events};
use crate::keyring::learned::{Acceptance, Change, Lessons, Refusal, Source, teaches};
use crate::keyring::{Asked, Candidate, Known, Standing, choose_for};
use crate::pki::Fingerprint;
use crate::snapshot::{Ingress, Reader};
use crate::trust::Peer;

/// The refusal memory of a process; every change of it is an Event.
pub fn lessons(
    remembered: &[crate::keyring::learned::Remembered],
    events: &Arc<Events>,
    reader: &Reader,
) -> Arc<Lessons> {
    let (events, reader) = (Arc::clone(events), reader.clone());
    Arc::new(Lessons::new(remembered, move |change| tell(change, &events, &reader)))
}

fn tell(change: Change, events: &Events, reader: &Reader) {
    let explanation = change.explanation();
    let Change { entry, standing, reason } = change;
    let Some(refused) = entry.refused.last().copied() else { return };
    events.emit(Event::Learned {
        listener: Arc::clone(&entry.source.listener),
        source: entry.source.to_string(),
        keyring: entry.keyring,
        refused,
        shown: entry.shown,
        standing,
        peer: entry.peer.map(Into::into),
        reason,
        explanation,
        epoch: reader.take().epoch,
    });
}

/// One handshake, with the remembered refusals of its source.
pub(super) struct Learning {
    lessons: Arc<Lessons>,
    source: Source,
    asked: Asked,
    known: Known,
}

/// What is known of a peer before the choice, and what records the outcome of its handshake.
pub(super) fn begin(
    ingress: &Ingress,
    lessons: &Arc<Lessons>,
    from: Option<SocketAddr>,
    asked: &Asked,
    now: Timestamp,
) -> (Known, Option<Learning>) {
    let Some(from) = from.filter(|_| ingress.candidates.in_overlap()) else {
        return (Known::default(), None);
    };
    let mut known = Known { show: ingress.partners.show(from.ip(), now), taught: None };
    if !ingress.settings.learn {
        return (known, None);
    }
    let source = Source::new(Arc::clone(&ingress.settings.name), from.ip(), asked.server_name.clone());
    known.taught = lessons.taught(&source, now);
    let learning = Learning { lessons: Arc::clone(lessons), source, asked: asked.clone(), known: known.clone() };
    (known, Some(learning))
}

impl Learning {
    /// Records the alert with which the peer answered `shown`. Returns the standing of the pair that its source is
    /// shown from now on, if that is another one.
    pub(super) fn refused(
        &self,
        alert: Option<&str>,
        shown: &Candidate,
        ingress: &Ingress,
        now: Timestamp,
    ) -> Option<Standing> {
        let alert = teaches(alert?)?;
        let next = self.next(shown, ingress, now);
        let refusal = Refusal {
            source: &self.source,
            keyring: &shown.keyring,
            key_pair: shown.key_pair,
            alert,
            offer: self.asked.offer,
        };
        let learned = self.lessons.refused(&refusal, next.map(|next| next.key_pair), now);
        next.filter(|_| learned).map(|next| next.standing)
    }

    /// Records that the peer was verified after a handshake with this pair.
    pub(super) fn accepted(&self, key_pair: Fingerprint, peer: &Peer, now: Timestamp) {
        let peer = (peer.certificate().fingerprint(), peer.identity());
        let accepted = Acceptance { source: &self.source, key_pair, peer, offer: self.asked.offer };
        self.lessons.accepted(&accepted, now);
    }

    /// The candidate that the rules choose now that `shown` is refused.
    fn next<'a>(&self, shown: &Candidate, ingress: &'a Ingress, now: Timestamp) -> Option<&'a Candidate> {
        let mut known = self.known.clone();
        let taught = known.taught.get_or_insert_default();
        taught.refused.push(shown.key_pair);
        taught.shown = taught.shown.filter(|other| *other != shown.key_pair);
        let choice = choose_for(&ingress.candidates, &self.asked, &known, now)?;
        let next = &ingress.candidates.0[choice.index];
        (!taught_refuses(&known, next)).then_some(next)
    }
}

fn taught_refuses(known: &Known, candidate: &Candidate) -> bool {
    known.taught.as_ref().is_some_and(|taught| taught.refused.contains(&candidate.key_pair))
}
