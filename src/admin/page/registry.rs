//! The registry as tables that sort and filter by links and forms: key pairs, peers and upstreams, history, failed handshakes.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, link_certificate, link_keyring, link_peer, render_clock, render_command, render_day, render_distance,
    render_label, render_names, render_outside, render_unread,
};
use super::query::ViewQuery;
use super::table::TableFrame;
use crate::pki::{first_few, format_day};
use crate::registry::{FailureRow, HistoryRow, KeyPairSummary};
use crate::views::list_window::ListPart;
use crate::views::peers::PeerSummary;
use crate::views::registry::KeyPairTable;

/// Names of a certificate that a row shows.
const FEW_NAMES: usize = 3;

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistryTab {
    /// Key pairs.
    KeyPairs,
    /// Peers and upstreams.
    Peers,
    /// Trust anchors, pins and CRLs.
    Trust,
    /// The history.
    History,
    /// Failed handshakes.
    Failures,
}

const TABS: [(RegistryTab, &str, &str); 5] = [
    (RegistryTab::KeyPairs, "/registry", "Key pairs"),
    (RegistryTab::Peers, "/registry/peers", "Peers and upstreams"),
    (RegistryTab::Trust, "/registry/trust", "Trust anchors and CRLs"),
    (RegistryTab::History, "/registry/history", "History"),
    (RegistryTab::Failures, "/registry/failures", "Failed handshakes"),
];

/// A table with the links to the others above it.
pub(super) fn render_registry(tab: RegistryTab, content: &Markup) -> Markup {
    html! {
        nav class="tabs" aria-label="Tables" {
            @for (one, path, name) in TABS { a href=(path) aria-current=[(one == tab).then_some("page")] { (name) } }
        }
        (content)
    }
}

/// The key pairs.
pub(super) fn render_key_pairs(query: &ViewQuery, table: &KeyPairTable, now: Timestamp) -> Markup {
    let caption = "Every key pair that was ever seen";
    let (rows, frame) = (&table.rows, TableFrame { query, path: "/registry", name: "Key pairs", caption });
    let standings = ["current", "previous", "staged", "refused", "retired", "revoked", "gone"].map(|one| (one, one));
    let fields = html! {
        (frame.render_choice(("standing", "Standing"), "all", &standings))
        (frame.render_field("owner", "Owner"))
    };
    let head = html! {
        (query.render_sorter("keyring", "Keyring", "keyring"))
        th scope="col" { "Key pair" }
        (query.render_sorter("standing", "Standing", "keyring"))
        (query.render_sorter("subject", "Subject and names", "keyring"))
        (query.render_sorter("issuer", "Issuer", "keyring"))
        (query.render_sorter("not_before", "Valid from", "keyring"))
        (query.render_sorter("not_after", "Ends", "keyring"))
        (query.render_sorter("last_used", "Last used", "keyring"))
        (query.render_sorter("owner", "Owner", "keyring"))
    };
    let body = html! { @for row in &rows.entries { (render_key_pair(row, now)) } };
    html! {
        @if let Some(why) = &table.registry_unread { (render_unread(why)) }
        (frame.render_filters("keyring, subject, issuer, name, serial or fingerprint", &fields))
        (frame.render_rows(&head, &body, (rows.offset, rows.entries.len(), rows.total)))
        p class="do" { "The whole table for a spreadsheet: " (render_command(&["sidekey", "registry", "export", "--format", "csv"])) }
    }
}

fn render_key_pair(row: &KeyPairSummary, now: Timestamp) -> Markup {
    let names: Vec<String> = row.names.iter().map(str::to_owned).collect();
    let ends = row.not_after.time();
    let standing = row.standing.split([' ', ',']).next().unwrap_or_default();
    html! {
        tr {
            th scope="row" { (link_keyring(&row.keyring)) @if let Some(purpose) = &row.purpose { span class="sub" { (render_outside(purpose)) } } }
            td { (link_certificate(&row.key_pair)) span class="sub" { (row.key_kind) } }
            td { (render_label(LabelTone::of_standing(standing), &row.standing)) }
            td { (render_outside(&row.subject)) @if !names.is_empty() { span class="sub" { (render_names(&names, FEW_NAMES)) } } }
            td { (render_outside(&row.issuer)) }
            td { span class="day" { (format_day(row.not_before.time())) } }
            td class=(tone_of_end(standing, ends, now)) { (render_day(ends, now)) }
            td { @if let Some(used) = row.last_used { (render_distance(used.time(), now)) } @else { span class="muted" { "never" } } }
            td { @if let Some(owner) = &row.owner { (render_outside(owner)) } @if let Some(contact) = &row.contact { span class="sub" { (render_outside(contact)) } } }
        }
    }
}

/// Only what is in use alarms.
fn tone_of_end(standing: &str, ends: Timestamp, now: Timestamp) -> &'static str {
    if matches!(standing, "current" | "previous" | "staged") {
        LabelTone::of_end(ends, now).as_class()
    } else {
        "muted"
    }
}

/// Peers and upstreams.
pub(super) fn render_peers(query: &ViewQuery, rows: &ListPart<PeerSummary>, now: Timestamp) -> Markup {
    let caption = "Peers and upstreams by identity";
    let frame = TableFrame { query, path: "/registry/peers", name: "Peers and upstreams", caption };
    let sides = [("ingress", "peers (ingress)"), ("egress", "upstreams (egress)")];
    let fields =
        html! { (frame.render_choice(("side", "Side"), "both", &sides)) (frame.render_field("partner", "Partner")) };
    let head = html! {
        (query.render_sorter("identity", "Identity", ""))
        (query.render_sorter("partner", "Partner", ""))
        th scope="col" { "Listeners" }
        th scope="col" { "Certificate" }
        (query.render_sorter("not_after", "Its certificate ends", ""))
        th scope="col" { "Was shown" }
        (query.render_sorter("handshakes", "Handshakes", ""))
        (query.render_sorter("last_seen", "Last seen", ""))
    };
    let body = html! { @for row in &rows.entries { (render_peer(row, now)) } };
    html! {
        (frame.render_filters("identity, subject, partner or address", &fields))
        (frame.render_rows(&head, &body, (rows.offset, rows.entries.len(), rows.total)))
    }
}

fn render_peer(row: &PeerSummary, now: Timestamp) -> Markup {
    let ends = row.not_after.time();
    let listeners: Vec<String> = row.listeners.iter().cloned().collect();
    html! {
        tr {
            th scope="row" { (link_peer(&row.identity)) @if let Some(address) = &row.address { span class="sub mono" { (render_outside(address)) } } }
            td { @if let Some(partner) = &row.partner { (render_outside(partner)) } }
            td { (row.side) " " (render_outside(&first_few(&listeners, FEW_NAMES))) }
            td {
                @if let Some(certificate) = row.certificates.first() { (link_certificate(certificate)) }
                @if row.certificates.len() > 1 { span class="sub" { "and " (row.certificates.len() - 1) " more" } }
            }
            td class=(LabelTone::of_end(ends, now).as_class()) { (render_day(ends, now)) }
            td {
                @if let Some(key_pair) = &row.key_pair { (link_certificate(key_pair)) }
                @if let Some(keyring) = &row.keyring { span class="sub" { (link_keyring(keyring)) } }
            }
            td class="number" { (row.handshakes) }
            td { (render_distance(row.last_seen.time(), now)) }
        }
    }
}

/// The history, as a table.
pub(super) fn render_history(rows: &[HistoryRow], now: Timestamp) -> Markup {
    html! {
        div class="scroll" role="region" aria-label="History" tabindex="0" {
            table {
                caption { "What changed, the newest first" }
                thead {
                    tr {
                        th scope="col" { "When (UTC)" } th scope="col" { "What" } th scope="col" { "Change" } th scope="col" { "Who" }
                        th scope="col" { "Why" } th scope="col" { "Instance" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            td class="mono" { (render_clock(row.at.time(), now)) }
                            th scope="row" { (row.kind) " " (render_outside(&row.name)) @if let Some(key_pair) = &row.key_pair { span class="sub" { (link_certificate(key_pair)) } } }
                            td { @if let Some(was) = &row.was { (render_outside(was)) } " → " @if let Some(becomes) = &row.becomes { (render_outside(becomes)) } }
                            td { (render_outside(&row.who)) }
                            td { code { (row.reason) } span class="sub" { (row.why) } }
                            td { (render_outside(&row.instance)) }
                        }
                    }
                }
            }
        }
    }
}

/// Handshakes that failed, of the last 30 days.
pub(super) fn render_failures(rows: &[FailureRow], now: Timestamp) -> Markup {
    html! {
        ol class="events" {
            @for row in rows {
                li class="event edge tone-bad" {
                    div class="event-head" {
                        (render_clock(row.at.time(), now))
                        code { (row.reason) }
                        span { (row.side) " " (render_outside(&row.listener)) }
                        @if row.repeats > 0 { span { "and " (row.repeats) " more" } }
                    }
                    p class="event-why" { (row.explanation) }
                    p class="event-facts" {
                        @if let Some(subject) = &row.subject { span { "claims " (render_outside(subject)) } }
                        @if let Some(certificate) = &row.certificate { span { "certificate " (link_certificate(certificate)) } }
                        @if let Some(address) = &row.address { span class="mono" { (render_outside(address)) } }
                        @if let Some(name) = &row.server_name { span { "asks for " (render_outside(name)) } }
                        @if let Some(key_pair) = &row.key_pair { span { "shown " (link_certificate(key_pair)) } }
                        @if let Some(alert) = &row.alert { span { "alert " code { (alert) } } }
                        span class="muted" { (render_outside(&row.instance)) }
                    }
                }
            }
        }
    }
}
