//! One peer or upstream: its certificates, its progress in each rotation, and its latest handshakes.

use std::sync::Arc;

use jiff::Timestamp;
use maud::{Markup, html};

use super::handshakes;
use super::markup::{
    LabelTone, encode_part, link_certificate, link_keyring, render_date, render_distance, render_fact, render_label,
    render_outside, render_sentence,
};
use crate::event::HandshakeRecord;
use crate::registry::PeerRow;
use crate::views::peers::{PeerDetails, PeerRotation, PeerSummary};

/// The view.
pub(super) fn render_peer(details: &PeerDetails, recent: &[Arc<HandshakeRecord>], now: Timestamp) -> Markup {
    html! {
        @for summary in &details.peers { (render_summary(summary, now)) }
        section aria-labelledby="rotations" data-live="rotations" {
            h2 id="rotations" { "Rotations" }
            @if details.rotations.is_empty() { p class="empty" { "No keyring that it is shown is in overlap." } }
            @for rotation in &details.rotations { (render_progress(rotation, now)) }
        }
        section aria-labelledby="certificates" {
            h2 id="certificates" { "Certificates that it showed" }
            (render_rows(&details.rows, now))
        }
        section aria-labelledby="handshakes" data-live="handshakes" {
            h2 id="handshakes" { "Its latest handshakes" }
            @if recent.is_empty() { p class="empty" { "None is in memory." } }
            (handshakes::render_list(recent, now))
            @if let Some(summary) = details.peers.first() {
                p class="more" { a href={ "/handshakes?peer=" (encode_part(&summary.identity)) } { "All that mention it" } }
            }
        }
    }
}

fn render_summary(summary: &PeerSummary, now: Timestamp) -> Markup {
    html! {
        dl class="facts" {
            (render_fact("is", Some(if summary.side == "ingress" { "a peer (ingress)" } else { "an upstream (egress)" })))
            (render_fact("partner", summary.partner.as_deref().map(render_outside)))
            (render_fact("listeners", Some(html! { @for listener in &summary.listeners { span class="part" { (render_outside(listener)) } " " } })))
            (render_fact("last address", summary.address.as_deref().map(render_outside)))
            (render_fact("first seen", Some(render_date(summary.first_seen.time(), now))))
            (render_fact("last seen", Some(render_date(summary.last_seen.time(), now))))
            (render_fact("handshakes", Some(summary.handshakes)))
            (render_fact("was shown", summary.key_pair.as_deref().map(|key_pair| html! {
                (link_certificate(key_pair))
                @if let Some(keyring) = &summary.keyring { " of " (link_keyring(keyring)) }
                @if let Some(why) = &summary.chosen_by { " (" (why) ")" }
            })))
        }
    }
}

fn render_progress(rotation: &PeerRotation, now: Timestamp) -> Markup {
    let line = &rotation.line;
    html! {
        article class={ "card edge " (LabelTone::of_progress(line.stands).as_class()) } {
            div class="card-head" {
                h3 { (link_keyring(&rotation.keyring)) }
                (render_label(LabelTone::of_progress(line.stands), line.stands.as_str()))
                span class="muted" { (line.senders_proved) " of " (line.senders_known) " senders proved" }
            }
            @if let Some(because) = &line.because { p { (render_sentence(because)) } }
            @if let Some(habit) = &line.habit { p { (habit) } }
            dl class="facts" {
                (render_fact("last on the new pair", line.last_new.map(|at| render_date(at, now))))
                (render_fact("last on an old pair", line.last_old.map(|at| render_date(at, now))))
                (render_fact("awaited until", line.until.map(|at| render_date(at, now))))
                (render_fact("contact", line.contact.as_deref().map(render_outside)))
            }
        }
    }
}

fn render_rows(rows: &[PeerRow], now: Timestamp) -> Markup {
    html! {
        div class="scroll" role="region" aria-label="Certificates" tabindex="0" {
            table {
                caption { "By listener and instance, the latest first" }
                thead {
                    tr {
                        th scope="col" { "Certificate" } th scope="col" { "Subject" } th scope="col" { "Issuer" } th scope="col" { "Ends" }
                        th scope="col" { "Listener" } th scope="col" { "Last seen" } th scope="col" { "Handshakes" } th scope="col" { "Instance" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (link_certificate(&row.certificate)) @if row.public_ca.is_set() { span class="sub" { "of a public CA" } } }
                            td { (render_outside(&row.subject)) }
                            td { (render_outside(&row.issuer)) }
                            td class=(LabelTone::of_end(row.not_after.time(), now).as_class()) { (render_distance(row.not_after.time(), now)) }
                            td { (row.side) " " (render_outside(&row.listener)) }
                            td { (render_distance(row.last_seen.time(), now)) }
                            td class="number" { (row.handshakes) }
                            td { (render_outside(&row.instance)) }
                        }
                    }
                }
            }
        }
    }
}
