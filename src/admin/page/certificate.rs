//! One certificate with all its fields, and where the sidecar knows it from.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, link_key_pair, link_keyring, link_peer, render_command, render_date, render_fact, render_label,
    render_outside, render_sentence,
};
use crate::registry::PeerRow;
use crate::views::certificates::{CertificateDetails, CertificateRole, CertificateView};

/// The view.
pub(super) fn render_certificate(details: &CertificateDetails, now: Timestamp) -> Markup {
    html! {
        ul class="rows" { @for role in &details.roles { li { (render_role(role)) } } }
        h2 { "Fields" }
        @if let Some(fields) = &details.certificate { (render_fields(fields, now)) }
        @if let Some(row) = &details.remembered { (render_remembered(row, now)) }
        @if let Some(pem) = &details.pem {
            h2 { "PEM" }
            pre tabindex="0" { @for line in pem.lines() { span class="line" { (line) } } }
        }
        p class="do" { "To explain a file: " (render_command(&["sidekey", "inspect", "FILE"])) }
    }
}

fn render_role(role: &CertificateRole) -> Markup {
    html! {
        @match role {
            CertificateRole::KeyPair { keyring, standing } => {
                (render_label(LabelTone::of_standing(standing.as_str()), standing.as_str())) " key pair of keyring " (link_keyring(keyring))
            }
            CertificateRole::Intermediate { keyring, key_pair } => {
                "intermediate, shown after key pair " (link_key_pair(*key_pair)) " of keyring " (link_keyring(keyring))
            }
            CertificateRole::Anchor { trust } => { "anchor of trust " (render_outside(trust)) }
            CertificateRole::Peer { side, listener, identity } => {
                @if side == "ingress" { "shown by peer " } @else { "shown by upstream " }
                (link_peer(identity)) " at " (side) " " (render_outside(listener))
            }
        }
    }
}

fn render_fields(fields: &CertificateView, now: Timestamp) -> Markup {
    html! {
        dl class="facts whole" {
            (render_fact("subject", Some(html! { bdi { (fields.subject) } })))
            (render_fact("issuer", Some(html! { bdi { (fields.issuer) } })))
            (render_fact("serial", Some(html! { span class="mono" { (fields.serial) } })))
            (render_fact("names", Some(html! {
                @for name in &fields.names { span class="part" { bdi { (name) } } " " }
                @if fields.names.is_empty() { "none" }
            })))
            (render_fact("valid from", Some(render_date(fields.not_before, now))))
            (render_fact("ends", Some(render_date(fields.not_after, now))))
            (render_fact("key", Some(&fields.key)))
            (render_fact("usage", Some(&fields.usage)))
            (render_fact("signature", Some(&fields.signature)))
            (render_fact("authority", Some(if fields.authority { "yes: it may issue certificates" } else { "no" })))
            (render_fact("fingerprint", Some(html! { span class="mono" { (fields.fingerprint) } })))
            (render_fact("pin", Some(html! { span class="mono" { (fields.pin) } })))
            (render_fact("weakness", fields.weakness.as_deref().map(render_sentence)))
        }
    }
}

fn render_remembered(row: &PeerRow, now: Timestamp) -> Markup {
    html! {
        p class="notice tone-info" { "Its bytes are not at hand: no recent handshake sent it. The registry remembers:" }
        dl class="facts whole" {
            (render_fact("subject", Some(html! { bdi { (row.subject) } })))
            (render_fact("issuer", Some(html! { bdi { (row.issuer) } })))
            (render_fact("serial", Some(html! { span class="mono" { (row.serial) } })))
            (render_fact("valid from", Some(render_date(row.not_before.time(), now))))
            (render_fact("ends", Some(render_date(row.not_after.time(), now))))
            (render_fact("fingerprint", Some(html! { span class="mono" { (row.certificate) } })))
            (render_fact("first seen", Some(render_date(row.first_seen.time(), now))))
            (render_fact("last seen", Some(render_date(row.last_seen.time(), now))))
        }
    }
}
