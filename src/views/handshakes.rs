//! Handshakes of the recent past and those to come, as far as a filter lets them pass.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::{Event, EventBus, EventFollower, HandshakeRecord};
use crate::log::{LineStyle, LogFormat};
use crate::pki::blocks;

/// Which handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandshakeFilter {
    /// Only those that did not come to a connection.
    pub failed: bool,
    /// Part of the peer's identity, subject or address, or its partner's name.
    pub peer: Option<String>,
    /// Of this time or later.
    pub since: Option<Timestamp>,
    /// `ingress` or `egress`.
    pub side: Option<String>,
    /// A listener's name.
    pub listener: Option<String>,
    /// The keyring of the pair that we showed.
    pub keyring: Option<String>,
    /// At most so many, the latest.
    pub last: Option<usize>,
}

/// The recent handshakes that the filter lets pass, the oldest first; then, where it follows, those to come.
pub(crate) struct HandshakeFeed {
    filter: HandshakeFilter,
    passing: VecDeque<Arc<HandshakeRecord>>,
    /// The recent ones, as long as the follower may report one of them again.
    past: Vec<Arc<HandshakeRecord>>,
    follower: Option<EventFollower>,
}

impl HandshakeFeed {
    /// Starts with what is recent now.
    pub(crate) fn open(events: &EventBus, filter: HandshakeFilter, follows: bool) -> Self {
        // The follower begins before the past is read: the first that it hears may be in both.
        let follower = follows.then(|| events.subscribe());
        let past = events.recent();
        let mut passing: VecDeque<_> = past.iter().filter(|handshake| passes(handshake, &filter)).cloned().collect();
        let skipped = filter.last.map_or(0, |last| passing.len().saturating_sub(last));
        passing.drain(..skipped);
        Self { filter, passing, past, follower }
    }

    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Arc<HandshakeRecord>> {
        if let Some(handshake) = self.passing.pop_front() {
            return Some(handshake);
        }
        let follower = self.follower.as_mut()?;
        loop {
            let (handshake, is_told) = match follower.next().await? {
                // One that was told may have been amended since.
                Event::Handshake(handshake) => {
                    let is_told = self.past.iter().any(|past| past.name_handshake() == handshake.name_handshake());
                    if !is_told && !handshake.is_silent() {
                        self.past.clear();
                    }
                    (handshake, is_told)
                }
                // What came of a handshake afterwards. Handshakes that were told may still follow.
                Event::Proof(proof) if proof.is_adverse() => {
                    let Some(handshake) = proof.handshake else { continue };
                    let is_told = self.past.iter().any(|past| Arc::ptr_eq(past, &handshake));
                    (handshake, is_told)
                }
                _ => continue,
            };
            if !handshake.is_silent() && !is_told && passes(&handshake, &self.filter) {
                return Some(handshake);
            }
        }
    }
}

/// The recent handshakes that the filter lets pass, the latest first.
pub(crate) fn find_recent(events: &EventBus, filter: &HandshakeFilter) -> Vec<Arc<HandshakeRecord>> {
    let recent = events.recent().into_iter().rev().filter(|handshake| passes(handshake, filter));
    recent.take(filter.last.unwrap_or(usize::MAX)).collect()
}

/// One of the recent ones as an object, with the certificates that the other side sent.
pub(crate) fn find_handshake(events: &EventBus, id: u64) -> Option<Value> {
    let handshake = events.recent().into_iter().rev().find(|handshake| handshake.connection == id)?;
    let mut value = handshake_object(&handshake);
    if let Some(object) = value.as_object_mut() {
        let chain: Vec<String> = handshake.peer_chain.iter().map(|der| blocks::certificate_pem(der)).collect();
        object.insert("chain_pem".to_owned(), json!(chain));
    }
    Some(value)
}

/// As in a log of JSON lines.
pub(crate) fn handshake_object(handshake: &HandshakeRecord) -> Value {
    let line = handshake.line(LineStyle { format: LogFormat::Json, colour: false });
    serde_json::from_slice(&line).unwrap_or(Value::Null)
}

/// As in a log for people.
pub(crate) fn handshake_text(handshake: &HandshakeRecord, colour: bool) -> String {
    let line = handshake.line(LineStyle { format: LogFormat::Text, colour });
    String::from_utf8_lossy(&line).into_owned()
}

fn passes(handshake: &HandshakeRecord, filter: &HandshakeFilter) -> bool {
    let peer = |wanted: &String| {
        let wanted = wanted.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        handshake.identity.as_deref().is_some_and(has)
            || handshake.partner.as_deref().is_some_and(|partner| partner.to_lowercase() == wanted)
            || handshake.peer.as_ref().is_some_and(|peer| has(&peer.subject))
            || handshake.peer_addr.is_some_and(|address| has(&address.to_string()))
    };
    (!filter.failed || handshake.is_failure())
        && filter.since.is_none_or(|since| since <= handshake.time)
        && filter.side.as_deref().is_none_or(|side| side == handshake.side.as_str())
        && filter.listener.as_deref().is_none_or(|listener| *listener == *handshake.listener)
        && filter.keyring.as_deref().is_none_or(|keyring| handshake.keyring.as_deref() == Some(keyring))
        && filter.peer.as_ref().is_none_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::ProofRecord;
    use crate::event::handshake::tests::accepted;
    use crate::log::{LogQueue, LogSettings};
    use crate::metrics::Metrics;
    use crate::pki::Fingerprint;
    use crate::snapshot::{Epoch, Side};

    const KEY_PAIR: Fingerprint = Fingerprint::from_bytes([1; 32]);

    fn event_bus() -> EventBus {
        let (lines, _shown) = LogQueue::channel(LogFormat::Json);
        EventBus::new(lines, Metrics::new().into(), &LogSettings::default(), Clock::system()).unwrap()
    }

    fn shown(connection: u64) -> HandshakeRecord {
        HandshakeRecord { side: Side::Egress, key_pair: Some(KEY_PAIR), connection, ..accepted() }
    }

    fn refused_later(connection: u64) -> Event {
        Event::Proof(ProofRecord {
            listener: "out".into(),
            outcome: crate::event::handshake::tests::refused("203.0.113.7:1").outcome,
            reason: "closed_after_handshake",
            key_pair: KEY_PAIR,
            alert_received: None,
            explanation: "why".to_owned(),
            connection,
            epoch: Epoch(1),
            handshake: None,
        })
    }

    #[tokio::test]
    async fn what_came_between_the_follower_and_the_reading_of_the_past_is_told_once() {
        let events = event_bus();
        let follower = events.subscribe();
        events.emit(Event::Handshake(Arc::new(shown(7))));
        events.emit(refused_later(7));
        events.emit(Event::Handshake(Arc::new(shown(8))));
        let past = events.recent();
        let passing = past.iter().cloned().collect();
        let mut feed = HandshakeFeed { filter: HandshakeFilter::default(), passing, past, follower: Some(follower) };
        events.emit(Event::Handshake(Arc::new(shown(9))));
        events.emit(refused_later(8));
        let mut told = Vec::new();
        for _ in 0..4 {
            let handshake = feed.next().await.unwrap();
            told.push((handshake.connection, handshake.is_failure()));
        }
        assert_eq!(told, [(7, true), (8, false), (9, false), (8, true)]);
    }

    #[tokio::test]
    async fn what_is_refused_after_a_handshake_comes_as_a_failed_one() {
        let events = event_bus();
        let failed = HandshakeFilter { failed: true, ..HandshakeFilter::default() };
        let mut feed = HandshakeFeed::open(&events, failed.clone(), true);
        events.emit(Event::Handshake(Arc::new(shown(7))));
        events.emit(refused_later(7));
        let followed = feed.next().await.unwrap();
        assert_eq!((followed.connection, followed.reason), (7, "closed_after_handshake"));
        let later = HandshakeFeed::open(&events, failed, false).next().await.unwrap();
        assert_eq!((later.connection, later.reason), (7, "closed_after_handshake"));
    }
}
