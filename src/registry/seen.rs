//! Handshakes as rows: the peer that was seen, the failure. Pure; texts that a peer controls are truncated.

use super::{FailureRow, PeerRow, UnixSeconds};
use crate::event::HandshakeRecord;
use crate::event::handshake::PeerFacts;

/// Maximum length of a text that a peer controls.
pub(super) const MAX_TEXT_LENGTH: usize = 4_000;

/// The row of a peer after its first handshake.
pub fn peer_row(handshake: &HandshakeRecord, facts: &PeerFacts, instance: &str, public_ca: bool) -> PeerRow {
    let at = UnixSeconds::from(handshake.time);
    let mut peer = PeerRow {
        instance: instance.to_owned(),
        side: handshake.side.as_str().to_owned(),
        listener: handshake.listener.to_string(),
        certificate: facts.fingerprint.to_string(),
        identity: None,
        partner: None,
        subject: truncate(&facts.subject),
        issuer: truncate(&facts.issuer),
        serial: truncate(&facts.serial),
        not_before: facts.not_before.into(),
        not_after: facts.not_after.into(),
        public_ca: false.into(),
        address: None,
        keyring: None,
        key_pair: None,
        chosen_by: None,
        handshakes: 0,
        first_seen: at,
        last_seen: at,
    };
    update_peer(&mut peer, handshake, public_ca);
    peer
}

/// Counts a handshake: all that may differ from one handshake with a certificate to the next is set here only.
pub(super) fn update_peer(peer: &mut PeerRow, handshake: &HandshakeRecord, public_ca: bool) {
    peer.handshakes += 1;
    peer.last_seen = handshake.time.into();
    peer.identity = handshake.identity.as_deref().map(truncate);
    peer.partner = handshake.partner.as_deref().map(str::to_owned);
    peer.public_ca = public_ca.into();
    peer.address = handshake.peer_addr.map(|address| address.ip().to_string());
    peer.keyring = handshake.keyring.as_deref().map(str::to_owned);
    peer.key_pair = handshake.key_pair.map(|key_pair| key_pair.to_string());
    peer.chosen_by = handshake.chosen_by.map(|chosen_by| chosen_by.as_str().to_owned());
}

/// The row of a failed handshake.
pub(super) fn failure_row(handshake: &HandshakeRecord, instance: &str) -> FailureRow {
    let peer = handshake.peer.as_ref();
    FailureRow {
        instance: instance.to_owned(),
        at: handshake.time.into(),
        side: handshake.side.as_str().to_owned(),
        listener: handshake.listener.to_string(),
        reason: handshake.reason.to_owned(),
        explanation: truncate(&handshake.explanation),
        address: handshake.peer_addr.map(|address| address.ip().to_string()),
        server_name: handshake.facts.server_name.as_deref().map(truncate),
        subject: peer.map(|peer| truncate(&peer.subject)),
        issuer: peer.map(|peer| truncate(&peer.issuer)),
        certificate: peer.map(|peer| peer.fingerprint.to_string()),
        key_pair: handshake.key_pair.map(|key_pair| key_pair.to_string()),
        alert: handshake.alert_received.or(handshake.alert_sent).map(str::to_owned),
        repeats: 0,
    }
}

/// Truncates a text that a peer controls; it is only displayed.
pub(super) fn truncate(text: &str) -> String {
    if text.len() <= MAX_TEXT_LENGTH {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_LENGTH).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}
