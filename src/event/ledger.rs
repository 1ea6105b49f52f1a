//! Turns Events into the facts behind the rotation report.
//!
//! This happens where Events are emitted and not in a follower: a slow follower misses Events, and a report that missed
//! a refusal would call a rotation safe.

use jiff::Timestamp;

use super::{Event, Handshake, Verdict, refuses_key_pair};
use crate::keyring;
use crate::keyring::Standing;
use crate::keyring::learned::{Change, Entry};
use crate::keyring::report::{Fact, Ledger, Said};
use crate::snapshot::Side;
use crate::tls::Outcome;

/// The name that all peers of a listener without a certificate share.
const ANONYMOUS: &str = "anonymous (no certificate)";

/// Records an Event, if it matters for the report.
pub(super) fn note(ledger: &mut Ledger, event: &Event, now: Timestamp) {
    match event {
        Event::Handshake(handshake) => note_handshake(ledger, handshake),
        Event::Proof { listener, key_pair, outcome, reason, explanation, .. } => {
            let said = match outcome {
                Outcome::Accepted => Said::Proved,
                Outcome::Refused | Outcome::Failed => Said::Refused,
                Outcome::Unproved => Said::HandshakeOk,
            };
            let (key_pair, next_try) = (*key_pair, None);
            let fact = Fact::Upstream {
                listener,
                keyring: None,
                key_pair,
                said,
                handshake: false,
                reason,
                explanation,
                next_try,
            };
            ledger.note(&fact, now);
        }
        Event::Upstream { listener, keyring, key_pair, verdict, reason, explanation, next_try, .. } => {
            let said = match verdict {
                Verdict::HandshakeOk => Said::HandshakeOk,
                Verdict::Proved => Said::Proved,
                Verdict::Refused => Said::Refused,
            };
            let (key_pair, next_try) = (*key_pair, *next_try);
            let fact = Fact::Upstream {
                listener,
                keyring: Some(keyring),
                key_pair,
                said,
                handshake: false,
                reason,
                explanation,
                next_try,
            };
            ledger.note(&fact, now);
        }
        Event::Learned { listener, source, keyring, refused, standing, peer, reason, explanation, .. } => {
            let (lesson, refused, peer) = (*standing, *refused, peer.as_deref());
            ledger.note(&Fact::Source { keyring, listener, source, refused, lesson, peer, reason, explanation }, now);
        }
        Event::Keyring {
            event: keyring::Event::Moved { keyring, to: Standing::Current, replaces: Some(_), .. },
            ..
        } => ledger.note(&Fact::Rotated { keyring }, now),
        _ => {}
    }
}

fn note_handshake(ledger: &mut Ledger, handshake: &Handshake) {
    let (Some(keyring), Some(key_pair), Some(chosen_by)) =
        (&handshake.keyring, handshake.key_pair, handshake.chosen_by)
    else {
        return;
    };
    let (listener, now) = (&handshake.listener, handshake.time);
    match handshake.side {
        Side::Ingress if handshake.outcome == Outcome::Accepted => {
            let fact = Fact::Peer {
                keyring,
                listener,
                identity: handshake.identity.as_deref().unwrap_or(ANONYMOUS),
                partner: handshake.partner.as_ref(),
                source: handshake.peer_addr.map(|address| address.ip()),
                key_pair,
                chosen_by,
            };
            ledger.note(&fact, now);
        }
        Side::Egress => {
            let said = match handshake.outcome {
                // TLS is done, but the upstream may still refuse the pair by a status: not proved yet.
                Outcome::Accepted | Outcome::Unproved => Said::HandshakeOk,
                Outcome::Refused | Outcome::Failed if handshake.alert_received.is_some_and(refuses_key_pair) => {
                    Said::Refused
                }
                Outcome::Refused | Outcome::Failed => return,
            };
            let fact = Fact::Upstream {
                listener,
                keyring: Some(keyring),
                key_pair,
                said,
                handshake: said == Said::HandshakeOk,
                reason: handshake.reason,
                explanation: &handshake.explanation,
                next_try: None,
            };
            ledger.note(&fact, now);
        }
        Side::Ingress => {}
    }
}

/// Records what a source had refused before this process started.
pub(super) fn recall(ledger: &mut Ledger, entry: &Entry) {
    let change = Change { entry: entry.clone(), standing: entry.standing, reason: entry.reason };
    let (source, explanation) = (entry.source.to_string(), change.explanation());
    for refused in &entry.refused {
        let fact = Fact::Source {
            keyring: &entry.keyring,
            listener: &entry.source.listener,
            source: &source,
            refused: *refused,
            lesson: entry.standing,
            peer: entry.peer.as_deref(),
            reason: entry.reason,
            explanation: &explanation,
        };
        ledger.note(&fact, entry.since);
    }
}
