//! What peers are verified with, as tables of the registry: trust anchors and pins, and CRLs.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, link_certificate, link_keyring, render_command, render_date, render_day, render_distance, render_label,
    render_names, render_outside, render_unread,
};
use super::query::ViewQuery;
use super::table::TableFrame;
use crate::registry::{AnchorSummary, CrlTableRow};
use crate::views::trusts::{AnchorTable, CrlTable};

/// Names of listeners and instances that a row shows.
const FEW_NAMES: usize = 3;

/// The view.
pub(super) fn render_trust(query: &ViewQuery, anchors: &AnchorTable, crls: &CrlTable, now: Timestamp) -> Markup {
    let caption = "Every trust anchor and pin that was ever seen";
    let frame = TableFrame { query, path: "/registry/trust", name: "Anchors and pins", caption };
    let (rows, kinds) = (&anchors.rows, [("anchor", "of a file"), ("platform", "of the platform"), ("pin", "pin")]);
    let standings = ["accepted", "leaving", "expired", "removed"].map(|standing| (standing, standing));
    let fields = html! {
        (frame.render_field("trust", "Trust"))
        (frame.render_choice(("kind", "Kind"), "all", &kinds))
        (frame.render_choice(("standing", "Standing"), "all", &standings))
    };
    let head = html! {
        (query.render_sorter("trust", "Trust", "trust"))
        th scope="col" { "Anchor or pin" }
        (query.render_sorter("standing", "Standing", "trust"))
        (query.render_sorter("subject", "Subject", "trust"))
        (query.render_sorter("not_after", "Ends", "trust"))
        (query.render_sorter("last_matched", "Last matched", "trust"))
        th scope="col" { "Verifies peers of" }
    };
    let body = html! { @for row in &rows.entries { (render_anchor(row, now)) } };
    html! {
        @if let Some(why) = &anchors.registry_unread { (render_unread(why)) }
        (frame.render_filters("trust, subject or fingerprint", &fields))
        (frame.render_rows(&head, &body, (rows.offset, rows.entries.len(), rows.total)))
        (render_crls(crls, now))
        p class="do" {
            "Which peers would fail without an anchor: " a href="/rotation" { "the rotation report" }
            ". The whole table for a spreadsheet: "
            (render_command(&["sidekey", "registry", "export", "--format", "csv", "--table", "anchors"]))
        }
    }
}

fn render_anchor(row: &AnchorSummary, now: Timestamp) -> Markup {
    let standing = row.standing.split([' ', ',']).next().unwrap_or_default();
    html! {
        tr {
            th scope="row" { (render_trust_name(&row.trust)) span class="sub" { (describe_kind(&row.kind)) } }
            td { @if row.kind == "pin" { span class="mono" title=(row.anchor) { (shorten_pin(&row.anchor)) } } @else { (link_certificate(&row.anchor)) } }
            td {
                (render_label(tone_of_standing(standing), &row.standing))
                @if let Some(until) = row.accepted_until { span class="sub" { "until " (render_date(until.time(), now)) } }
            }
            td {
                @if let Some(subject) = &row.subject { (render_outside(subject)) } @else { span class="muted" { "any with this key" } }
                @if let Some(why) = &row.cannot_vouch { span class="sub tone-warn" { "verifies no peer: " (why) } }
            }
            td class=(tone_of_end(row, standing, now)) { @if let Some(ends) = row.not_after { (render_day(ends.time(), now)) } }
            td { @if let Some(matched) = row.last_matched { (render_distance(matched.time(), now)) } @else { span class="muted" { "never" } } }
            td { (render_users(&row.listeners)) (render_instances(&row.instances)) }
        }
    }
}

fn render_crls(crls: &CrlTable, now: Timestamp) -> Markup {
    let rows = &crls.rows;
    html! {
        h2 { "Revocation lists" }
        @if rows.entries.is_empty() { p class="empty" { "No CRL was read: no certificate is known to be revoked." } }
        @else {
            div class="scroll" role="region" aria-label="Revocation lists" tabindex="0" {
                table {
                    caption { "The CRL of each issuer" }
                    thead {
                        tr {
                            th scope="col" { "Trust" } th scope="col" { "Issuer" } th scope="col" { "State" } th scope="col" { "Issued" }
                            th scope="col" { "Next update" } th scope="col" { "Revokes" } th scope="col" { "Covers peers of" }
                        }
                    }
                    tbody { @for row in &rows.entries { (render_crl(row, now)) } }
                }
            }
            @if rows.total > rows.entries.len() { p class="muted" { (rows.total - rows.entries.len()) " more in the API: /api/v1/crls" } }
        }
    }
}

fn render_crl(row: &CrlTableRow, now: Timestamp) -> Markup {
    let (tone, state) = match (row.in_use, row.stale) {
        (false, _) => (LabelTone::Info, "removed"),
        (true, true) => (LabelTone::Bad, "out of date"),
        (true, false) => (LabelTone::Good, "in use"),
    };
    html! {
        tr {
            th scope="row" { (render_trust_name(&row.trust)) }
            td {
                (render_outside(&row.issuer))
                @for anchor in row.anchors.iter() { span class="sub" { "anchor " (link_certificate(anchor)) } }
            }
            td { (render_label(tone, state)) }
            td { span class="day" { (render_day(row.this_update.time(), now)) } }
            td class=(if row.in_use { tone.as_class() } else { "muted" }) { (render_day(row.next_update.time(), now)) }
            td class="number" { @if let Some(revoked) = row.revoked { (revoked) } }
            td { (render_users(&row.listeners)) (render_instances(&row.instances)) }
        }
    }
}

/// A trust that a keyring has of its own is called by the keyring.
fn render_trust_name(trust: &str) -> Markup {
    html! {
        @if let Some(keyring) = trust.strip_prefix("own:") { "own trust of " (link_keyring(keyring)) } @else { (render_outside(trust)) }
    }
}

fn render_users(listeners: &[String]) -> Markup {
    html! {
        @if listeners.is_empty() { span class="muted" { "no listener here" } } @else { (render_names(listeners, FEW_NAMES)) }
    }
}

fn render_instances(instances: &[String]) -> Markup {
    html! { span class="sub" { "on " (render_names(instances, FEW_NAMES)) } }
}

fn describe_kind(kind: &str) -> &'static str {
    match kind {
        "pin" => "pin",
        "platform" => "of the platform",
        _ => "of a file",
    }
}

fn shorten_pin(pin: &str) -> String {
    pin.strip_prefix("sha256:").unwrap_or(pin).chars().take(12).collect()
}

fn tone_of_standing(standing: &str) -> LabelTone {
    match standing {
        "accepted" => LabelTone::Good,
        "leaving" => LabelTone::Warn,
        "expired" => LabelTone::Bad,
        _ => LabelTone::Info,
    }
}

/// Only what is in use alarms, and the platform's anchors are renewed by its vendor.
fn tone_of_end(row: &AnchorSummary, standing: &str, now: Timestamp) -> &'static str {
    match row.not_after {
        Some(ends) if standing == "accepted" && row.kind == "anchor" => LabelTone::of_end(ends.time(), now).as_class(),
        _ => "muted",
    }
}
