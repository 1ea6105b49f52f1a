//! Live handshakes: a list with filters, the newest first, each with its explanation; and one handshake with all its fields.

use std::sync::Arc;

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::markup::{
    LabelTone, encode_part, link_certificate, link_key_pair, link_keyring, link_peer, render_clock, render_fact,
    render_label, render_outside,
};
use crate::event::HandshakeRecord;
use crate::keyring::{SelectionReason, Standing};
use crate::views::handshakes::HandshakeFilter;

/// The form of the filters, the number of those shown, and the list.
pub(super) fn render_handshakes(
    filter: &HandshakeFilter,
    keyrings: &[&str],
    shown: &[Arc<HandshakeRecord>],
    now: Timestamp,
) -> Markup {
    html! {
        (render_form(filter, keyrings))
        div data-live="handshakes" aria-live="off" {
            p class="muted" {
                @if shown.is_empty() { "No handshake in memory passes this filter." }
                @else { "The latest " (shown.len()) " that pass, the newest first; the last 2,000 stay in memory." }
            }
            (render_list(shown, now))
        }
    }
}

/// The list alone.
pub(super) fn render_list(shown: &[Arc<HandshakeRecord>], now: Timestamp) -> Markup {
    html! { ol class="events" { @for handshake in shown { (render_event(handshake, now)) } } }
}

fn render_form(filter: &HandshakeFilter, keyrings: &[&str]) -> Markup {
    let peer = filter.peer.as_deref().unwrap_or_default();
    let is_side = |side: &str| filter.side.as_deref() == Some(side);
    html! {
        form class="filters" method="get" action="/handshakes" role="search" aria-label="Filter handshakes" {
            label class="check" { input type="checkbox" name="failed" value="true" checked[filter.failed]; " failed only" }
            label { "Peer" input type="search" name="peer" value=(peer) placeholder="identity, subject, address or partner" maxlength="200"; }
            label {
                "Keyring"
                select name="keyring" {
                    option value="" { "all" }
                    @for keyring in keyrings { option value=(keyring) selected[filter.keyring.as_deref() == Some(keyring)] { (keyring) } }
                }
            }
            label {
                "Side"
                select name="side" {
                    option value="" { "both" }
                    option value="ingress" selected[is_side("ingress")] { "ingress" }
                    option value="egress" selected[is_side("egress")] { "egress" }
                }
            }
            button type="submit" { "Show" }
            a href="/handshakes" { "Clear" }
        }
    }
}

fn render_event(handshake: &HandshakeRecord, now: Timestamp) -> Markup {
    let outcome = handshake.outcome.as_str();
    html! {
        li class={ "event edge " (LabelTone::of_outcome(outcome).as_class()) } {
            div class="event-head" {
                (render_clock(handshake.time, now))
                (render_label(LabelTone::of_outcome(outcome), outcome))
                @if handshake.reason != "ok" { code { (handshake.reason) } }
                span { (handshake.side.as_str()) " " (render_outside(&handshake.listener)) }
                a class="number" href={ "/handshakes/" (handshake.connection) } { "#" (handshake.connection) }
            }
            @if handshake.is_failure() || handshake.reason != "ok" { p class="event-why" { (handshake.explanation) } }
            p class="event-facts" { (render_peer(handshake)) (render_shown(handshake)) (render_agreed(handshake)) }
        }
    }
}

fn render_peer(handshake: &HandshakeRecord) -> Markup {
    let subject = handshake.peer.as_ref().map(|peer| peer.subject.as_str());
    html! {
        @if let Some(identity) = &handshake.identity { span { (link_peer(identity)) } }
        @else if let Some(subject) = subject { span { "claims " (render_outside(subject)) } }
        @if let Some(partner) = &handshake.partner { span { "partner " (render_outside(partner)) } }
        @if let Some(address) = handshake.peer_addr {
            span class="mono" { @if handshake.side.as_str() == "ingress" { "from " } @else { "to " } (address) }
        }
        @if let Some(name) = &handshake.facts.server_name { span { "asks for " (render_outside(name)) } }
    }
}

fn render_shown(handshake: &HandshakeRecord) -> Markup {
    let why: Vec<&str> = [handshake.standing.map(Standing::as_str), handshake.chosen_by.map(SelectionReason::as_str)]
        .into_iter()
        .flatten()
        .collect();
    html! {
        @if let Some(key_pair) = handshake.key_pair {
            span {
                "shown " (link_key_pair(key_pair))
                @if let Some(keyring) = &handshake.keyring { " of " (link_keyring(keyring)) }
                @if !why.is_empty() { " (" (why.join(", ")) ")" }
            }
        }
    }
}

fn render_agreed(handshake: &HandshakeRecord) -> Markup {
    let facts = &handshake.facts;
    html! {
        @if let Some(version) = facts.version {
            span class="muted" {
                "TLS " (version)
                @if let Some(group) = facts.group { " " (group) }
                @if let Some(alpn) = handshake.alpn() { " " (alpn) }
                @if facts.resumed { " resumed" }
            }
        }
        @if let Some(alert) = handshake.alert_sent { span { "alert sent " code { (alert) } } }
        @if let Some(alert) = handshake.alert_received { span { "alert received " code { (alert) } } }
    }
}

/// One handshake: its explanation, every field that its log line has, and the certificates that the other side sent.
pub(super) fn render_handshake(handshake: &HandshakeRecord, fields: &Value, now: Timestamp) -> Markup {
    let chain = fields.get("chain_pem").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let empty = serde_json::Map::new();
    let object = fields.as_object().unwrap_or(&empty);
    html! {
        ol class="events" { (render_event(handshake, now)) }
        @if let Some(identity) = &handshake.identity {
            p { a href={ "/handshakes?peer=" (encode_part(identity)) } { "All handshakes of this peer" } }
        }
        h2 { "Fields" }
        dl class="facts" {
            @for (name, value) in object.iter().filter(|(name, _)| !matches!(name.as_str(), "chain_pem" | "chain")) {
                (render_fact(name, (!value.is_null()).then(|| render_value(value))))
            }
            (render_fact("certificate", handshake.peer.as_ref().map(|peer| link_certificate(&peer.fingerprint.hex()))))
        }
        @if !handshake.chain_summary.is_empty() {
            h2 { "The chain that was sent" }
            ol class="plain" { @for certificate in &handshake.chain_summary { li { (render_outside(certificate)) } } }
        }
        @if !chain.is_empty() {
            h2 { "Certificates" }
            @for pem in chain.iter().filter_map(Value::as_str) {
                pre tabindex="0" { @for line in pem.lines() { span class="line" { (line) } } }
            }
            p class="do" { "Save them to a file, then: " (super::markup::render_command(&["sidekey", "inspect", "FILE"])) }
        }
    }
}

fn render_value(value: &Value) -> Markup {
    html! {
        @match value {
            Value::String(text) => bdi { (text) },
            other => (other.to_string()),
        }
    }
}
