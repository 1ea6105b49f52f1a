//! Alerts about certificates that are not ours: those of peers and upstreams, and trust anchors.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{Alert, AlertKind};
use super::deadline::{expiry_text, passed_threshold, time_left};
use super::inputs::{AlertInputs, concerned_name, contacts};
use crate::keyring::warning::thresholds;
use crate::pki::{Fingerprint, Validity, format_day};
use crate::registry::{PeerRow, short_fingerprint, shown_certificates};
use crate::snapshot::TrustView;
use crate::trust::describe_trust;

/// Peer certificates with a shorter lifetime are renewed automatically: their expiry raises no alert.
const MIN_WATCHED_LIFETIME: Duration = Duration::from_hours(10 * 24);
/// A peer that was not seen for longer raises no alert.
const MAX_PEER_SILENCE: Duration = Duration::from_hours(30 * 24);

pub(super) fn partner_expiries(records: &AlertInputs<'_>, now: Timestamp) -> Vec<Alert> {
    // A successor ends the alert, unless a node of the peer goes on showing the old certificate.
    let key = |peer: &'_ PeerRow| {
        let name = peer.identity.clone().unwrap_or_else(|| peer.subject.clone());
        (peer.side.clone(), peer.listener.clone(), name)
    };
    let shown = shown_certificates(records.peers, key, now.as_second());
    shown.into_iter().filter_map(|(peer, newer)| partner_expiry(records, peer, newer, now)).collect()
}

fn partner_expiry(records: &AlertInputs<'_>, peer: &PeerRow, newer: Option<&PeerRow>, now: Timestamp) -> Option<Alert> {
    let validity = Validity { not_before: peer.not_before.time(), not_after: peer.not_after.time() };
    let unseen = now.duration_since(peer.last_seen.time());
    if validity.lifetime() < MIN_WATCHED_LIFETIME
        || validity.not_after < now
        || unseen.is_positive() && unseen.unsigned_abs() > MAX_PEER_SILENCE
    {
        return None;
    }
    let keyring = peer.keyring.as_deref().unwrap_or_default();
    let view = records.keyrings.iter().find(|view| &*view.name == keyring);
    // In a shared registry: only instances with that keyring know its thresholds and its contact.
    if view.is_none() && !keyring.is_empty() {
        return None;
    }
    let thresholds = thresholds(view.and_then(|view| view.alert_before.as_deref()), validity.lifetime());
    let (threshold, urgent) = passed_threshold(validity.not_after, &thresholds, now)?;
    let certificate: Option<Fingerprint> = peer.certificate.parse().ok();
    let what = if peer.side == "egress" { "upstream" } else { "peer" };
    Some(Alert {
        name: format!("partner_expires:{}:{}", certificate?.hex(), threshold.as_secs()).into(),
        kind: AlertKind::PartnerExpires,
        urgent,
        keyring: keyring.into(),
        also: Vec::new(),
        key_pair: certificate,
        ends: Some(validity.not_after),
        contacts: view.and_then(|view| view.contact.clone()).into_iter().collect(),
        explanation: format!(
            "the certificate {} of {what} {} at {} expires in {} ({}), and {}",
            certificate?.short(),
            peer.name(),
            peer.listener,
            time_left(validity.not_after, now),
            format_day(validity.not_after),
            newer.map_or_else(|| "no newer one has been seen".to_owned(), |newer| describe_forgotten_node(peer, newer))
        ),
        remedy: match peer.partner.as_deref().and_then(|partner| records.contacts.get(partner)) {
            Some(partner) => {
                format!("contact the partner ({partner}): connections with an expired certificate are refused")
            }
            None => "contact the partner: connections with an expired certificate are refused".to_owned(),
        },
    })
}

/// What a certificate means that is shown beside a newer one of the same peer.
fn describe_forgotten_node(peer: &PeerRow, newer: &PeerRow) -> String {
    let from = peer.address.as_deref().map(|address| format!(" from {address}")).unwrap_or_default();
    format!(
        "a node of it was still using this one on {}{from}, although another has {} (valid until {})",
        format_day(peer.last_seen.time()),
        short_fingerprint(&newer.certificate),
        format_day(newer.not_after.time())
    )
}

/// Alerts about anchors that the operator has to renew.
pub(super) fn anchor_expiries<'a>(
    records: &'a AlertInputs<'_>,
    trust: &'a TrustView,
    now: Timestamp,
) -> impl Iterator<Item = Alert> + 'a {
    let users = || trust.used_by.iter().filter_map(|name| records.keyrings.iter().find(|view| view.name == *name));
    let watched = trust.holds.anchors_to_renew().filter(|_| !trust.used_by.is_empty());
    watched.filter_map(move |anchor| {
        let own = users().find_map(|view| view.alert_before.as_deref());
        let (threshold, urgent) =
            passed_threshold(anchor.validity.not_after, &thresholds(own, anchor.validity.lifetime()), now)?;
        let end = anchor.validity.not_after;
        Some(Alert {
            name: format!("anchor_expires:{}:{}", anchor.anchor.hex(), threshold.as_secs()).into(),
            kind: AlertKind::AnchorExpires,
            urgent,
            keyring: concerned_name(&trust.holds.name),
            also: Vec::new(),
            key_pair: Some(anchor.anchor),
            ends: Some(end),
            contacts: contacts(records, &trust.used_by),
            explanation: format!(
                "trust anchor {} ({}) of {} {}: from then on its peers are refused",
                anchor.anchor.short(),
                anchor.subject,
                describe_trust(&trust.holds.name),
                expiry_text(end, now)
            ),
            remedy: "request the CA's next anchor and add it beside this one: both are accepted. sidekey \
                     rotation lists the peers that depend on it; if there are none, remove it"
                .to_owned(),
        })
    })
}
